# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real hosts for the tests, on a machine that need not run systemd itself.

A host is a Debian tree (`recipe`: trixie, with systemd 257, and sid, with a newer one) that `build` makes
once with mmdebstrap and keeps in a cache ($MACHINED_TEST_CACHE or /var/cache/machined-tests). `boot.Host`
lays a writable overlay over it (`instance`) and starts its systemd as the first process of new namespaces,
in about a second; systemd-nspawn containers run in it as on any machine. `layer` adds what `make install`
does, as an overlay of its own that is cached by the source files. `vm` boots such a tree with a kernel of
its own in QEMU, for what namespaces cannot show: cgroup controllers, partitions, a real boot.

    with layer.machined_host("trixie") as host:
        host.boot()
        before = host.snapshot()
        host.add_guest("web")
        host.run(["machinectl", "start", "web"])
        ...
        assert before.diff(host.snapshot()) == []

`python3 -m tests.host shell` gives a shell in such a host, `… build` fills the cache, `… clean` drops it.
A machine that cannot do this says why in `probe.why_not()`, and the tests that need a host skip. Hosts are
independent of each other and of the machine's network; those of a process that was killed are removed by
the next one. Nothing is written outside the cache, but missing build tools are installed with apt-get.
"""
