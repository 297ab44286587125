# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of every setting: valid ones with what systemd-nspawn is told, and ones that must be refused.

systemd-nspawn itself is asked about them by tests/integration/test_nspawn_agrees.py.
"""

from __future__ import annotations

from typing import Final

YES_NO: Final = ("perhaps", "2", "yes no")
PATHS: Final = ("relative/path", "/a/../b", "/x\x01")
NAMES: Final = ("no/slash", "-", "a b", "ä")

# "Section.Key": ({value: option words}, refused values)
SAMPLES: Final[dict[str, tuple[dict[str, list[str]], tuple[str, ...]]]] = {
    "Exec.Boot": ({"yes": ["--boot"], "1": ["--boot"], "On": ["--boot"], "no": []}, YES_NO),
    "Exec.Ephemeral": ({"yes": [], "f": []}, YES_NO),
    "Exec.ProcessTwo": ({"true": ["--as-pid2"], "off": []}, YES_NO),
    "Exec.Parameters": ({"sleep 'a b'": [], '"" x': []}, ("'open",)),
    "Exec.Environment": (
        {
            "A=1": ["--setenv=A=1"],
            "A=1 'B=two words' C": ["--setenv=A=1", "--setenv=B=two words", "--setenv=C"],
            'PATH="/a b":/c': ["--setenv=PATH=/a b:/c"],
        },
        ("1A=2", "=x", "A-B=1", '"A=1'),
    ),
    "Exec.User": ({"joe": ["--uid=joe"], "1000": ["--uid=1000"]}, ("a b", "x:y", "")),
    "Exec.WorkingDirectory": ({"/srv//x/": ["--chdir=/srv/x"]}, PATHS),
    "Exec.PivotRoot": (
        {"/a": ["--pivot-root=/a"], "/a:/b": ["--pivot-root=/a:/b"]},
        ("a", "/a:b", "/a:/b:/c"),
    ),
    "Exec.Capability": (
        {
            "CAP_NET_ADMIN cap_sys_time": ["--capability=CAP_NET_ADMIN,CAP_SYS_TIME"],
            "all": ["--capability=all"],
            "12": ["--capability=CAP_NET_ADMIN"],
        },
        ("NET_ADMIN", "CAP_NOTHING", "99", "CAP_CHOWN,CAP_KILL"),
    ),
    "Exec.DropCapability": ({"CAP_MKNOD": ["--drop-capability=CAP_MKNOD"]}, ("CAP_X",)),
    "Exec.AmbientCapability": ({"CAP_CHOWN": ["--ambient-capability=CAP_CHOWN"]}, ("CAP_X",)),
    "Exec.NoNewPrivileges": (
        {"yes": ["--no-new-privileges=yes"], "n": ["--no-new-privileges=no"]},
        YES_NO,
    ),
    "Exec.KillSignal": (
        {
            "SIGUSR2": ["--kill-signal=SIGUSR2"],
            "term": ["--kill-signal=SIGTERM"],
            "SIGRTMIN+3": ["--kill-signal=SIGRTMIN+3"],
            "9": ["--kill-signal=SIGKILL"],
        },
        ("SIGNOTHING", "0", "65", "SIGRTMIN+99"),
    ),
    "Exec.Personality": ({"x86-64": ["--personality=x86-64"], "x86": ["--personality=x86"]}, ("vax", "X86")),
    "Exec.MachineID": (
        {
            "338a79d01ebe486a9f170456fe84e9fb": ["--uuid=338a79d01ebe486a9f170456fe84e9fb"],
            "338A79D0-1EBE-486A-9F17-0456FE84E9FB": ["--uuid=338a79d01ebe486a9f170456fe84e9fb"],
        },
        ("0" * 32, "12", "x" * 32),
    ),
    "Exec.PrivateUsers": (
        {
            "yes": ["--private-users=yes"],
            "no": ["--private-users=no"],
            "identity": ["--private-users=identity"],
            "131072": ["--private-users=131072:65536"],
            "0:65536": ["--private-users=0:65536"],
            "524288:131072": ["--private-users=524288:131072"],
        },
        ("some", "-1", "1:0", "5000000000", "0:x", "4294967295:1"),
    ),
    "Exec.PrivateUsersDelegate": (
        {"2": ["--private-users-delegate=2"]},
        ("-1", "x", "70000"),
    ),
    "Exec.NotifyReady": ({"yes": ["--notify-ready=yes"], "0": ["--notify-ready=no"]}, YES_NO),
    "Exec.SystemCallFilter": (
        {
            "@keyring bpf": ["--system-call-filter=@keyring bpf"],
            "~@mount read": ["--system-call-filter=~@mount read"],
        },
        ("Read", "a,b", "@"),
    ),
    "Exec.RestrictAddressFamilies": (
        {"AF_INET AF_UNIX": ["--restrict-address-families=AF_INET AF_UNIX"]},
        ("INET", "af_inet"),
    ),
    "Exec.LimitCPU": (
        {"10": ["--rlimit=CPU=10"], "1min:infinity": ["--rlimit=CPU=1min:infinity"]},
        ("x", "-1"),
    ),
    "Exec.LimitFSIZE": ({"1G": ["--rlimit=FSIZE=1G"]}, ("x", "1G:", "1X")),
    "Exec.LimitDATA": ({"infinity": ["--rlimit=DATA=infinity"]}, ("x",)),
    "Exec.LimitSTACK": ({"8M:16M": ["--rlimit=STACK=8M:16M"]}, ("x",)),
    "Exec.LimitCORE": ({"0": ["--rlimit=CORE=0"]}, ("x",)),
    "Exec.LimitRSS": ({"1G": ["--rlimit=RSS=1G"]}, ("x",)),
    "Exec.LimitNOFILE": ({"1024:4096": ["--rlimit=NOFILE=1024:4096"]}, ("x", "1:2:3")),
    "Exec.LimitAS": ({"1T": ["--rlimit=AS=1T"]}, ("x",)),
    "Exec.LimitNPROC": ({"100": ["--rlimit=NPROC=100"]}, ("x",)),
    "Exec.LimitMEMLOCK": ({"64K": ["--rlimit=MEMLOCK=64K"]}, ("x",)),
    "Exec.LimitLOCKS": ({"10": ["--rlimit=LOCKS=10"]}, ("x",)),
    "Exec.LimitSIGPENDING": ({"10": ["--rlimit=SIGPENDING=10"]}, ("x",)),
    "Exec.LimitMSGQUEUE": ({"1M": ["--rlimit=MSGQUEUE=1M"]}, ("x",)),
    "Exec.LimitNICE": ({"10": ["--rlimit=NICE=10"]}, ("x",)),
    "Exec.LimitRTPRIO": ({"5": ["--rlimit=RTPRIO=5"]}, ("x",)),
    "Exec.LimitRTTIME": ({"10ms": ["--rlimit=RTTIME=10ms"]}, ("x",)),
    "Exec.OOMScoreAdjust": ({"-500": ["--oom-score-adjust=-500"]}, ("1001", "x")),
    "Exec.CPUAffinity": (
        {"0": ["--cpu-affinity=0"], "0-1 3": ["--cpu-affinity=0-1,3"], "0,2-3": ["--cpu-affinity=0,2-3"]},
        ("x", "3-1", "-1"),
    ),
    "Exec.Hostname": ({"web.example.org": ["--hostname=web.example.org"]}, ("a b", "a..b", ".a", "x" * 65)),
    "Exec.ResolvConf": (
        {"copy-host": ["--resolv-conf=copy-host"], "no": ["--resolv-conf=off"]},
        ("copy",),
    ),
    "Exec.Timezone": ({"symlink": ["--timezone=symlink"]}, ("Europe/Berlin",)),
    "Exec.LinkJournal": (
        {"host": ["--link-journal=host"], "no": ["--link-journal=no"], "yes": ["--link-journal=auto"]},
        ("maybe",),
    ),
    "Exec.SuppressSync": ({"yes": ["--suppress-sync=yes"]}, YES_NO),
    "Exec.SELinuxContext": ({"a:b:c": ["--selinux-context=a:b:c"]}, ()),
    "Exec.SELinuxAPIFSContext": ({"a:b:c": ["--selinux-apifs-context=a:b:c"]}, ()),
    "Exec.Console": ({"read-only": ["--console=read-only"], "pipe": ["--console=pipe"]}, ("loud",)),
    "Exec.Background": ({"44": ["--background=44"]}, ()),
    "Exec.LoadCredential": (
        {"a.b:/etc/hostname": ["--load-credential=a.b:/etc/hostname"], "a:b": ["--load-credential=a:b"]},
        ("a", "a/b:/x", "a:", ":/x"),
    ),
    "Exec.SetCredential": ({"a:some words": ["--set-credential=a:some words"]}, ("a", "../x:y")),
    "Exec.APIFileSystemsWritable": ({"network": [], "yes": []}, ("some",)),
    "Exec.TemporaryFileSystemOnTmp": ({"no": []}, YES_NO),
    "Exec.CheckOSRelease": ({"no": []}, YES_NO),
    "Exec.ControlGroupNamespace": ({"yes": []}, YES_NO),
    "Exec.ShareNamespaceIPC": ({"yes": []}, YES_NO),
    "Exec.ShareNamespacePID": ({"yes": []}, YES_NO),
    "Exec.ShareNamespaceUTS": ({"yes": []}, YES_NO),
    "Exec.UnifiedHierarchy": ({"yes": []}, YES_NO),
    "Exec.Seccomp": ({"no": []}, YES_NO),
    "Exec.ContainerService": ({"mine": []}, ()),
    "Exec.Slice": ({"machine-web.slice": []}, ("web", "a b.slice", ".slice")),
    "Exec.Lock": ({"no": []}, YES_NO),
    "Files.ReadOnly": ({"yes": ["--read-only"], "no": []}, YES_NO),
    "Files.Volatile": ({"state": ["--volatile=state"], "yes": ["--volatile=yes"]}, ("all",)),
    "Files.Bind": (
        {
            "/srv": ["--bind=/srv"],
            "/srv:/mnt": ["--bind=/srv:/mnt"],
            "/srv:/mnt:idmap,norbind": ["--bind=/srv:/mnt:idmap,norbind"],
            "/srv::rootidmap": ["--bind=/srv:/srv:rootidmap"],
            r"/a\:b:/c": [r"--bind=/a\:b:/c"],
            "+/usr:/mnt": ["--bind=+/usr:/mnt"],
            ":/mnt": ["--bind=:/mnt"],
        },
        ("srv", "/a:b", "/a:/b:nothing", "/a:/b:c:d", ":"),
    ),
    "Files.BindReadOnly": ({"/srv": ["--bind-ro=/srv"]}, ("srv",)),
    "Files.BindUser": ({"joe jane": ["--bind-user=joe", "--bind-user=jane"]}, ('"joe',)),
    "Files.BindUserShell": ({"/bin/sh": ["--bind-user-shell=/bin/sh"]}, ()),
    "Files.BindUserGroup": ({"wheel": ["--bind-user-group=wheel"]}, ()),
    "Files.TemporaryFileSystem": (
        {"/tmp": ["--tmpfs=/tmp"], "/x:mode=755": ["--tmpfs=/x:mode=755"]},
        ("tmp", "/a/../b:x"),
    ),
    "Files.Inaccessible": ({"/etc/shadow": ["--inaccessible=/etc/shadow"]}, ("etc",)),
    "Files.Overlay": (
        {"/a:/b:/c": ["--overlay=/a:/b:/c"], "+/etc::/etc": ["--overlay=+/etc::/etc"]},
        ("/a", "a:/b:/c", "/a:/b:"),
    ),
    "Files.OverlayReadOnly": ({"/a:/b": ["--overlay-ro=/a:/b"]}, ("/a",)),
    "Files.PrivateUsersOwnership": ({"map": ["--private-users-ownership=map"]}, ("mine",)),
    "Files.PrivateUsersChown": ({"yes": ["--private-users-ownership=chown"]}, YES_NO),
    "Network.Private": ({"yes": ["--private-network"], "no": []}, YES_NO),
    "Network.VirtualEthernet": ({"yes": ["--network-veth"], "no": []}, YES_NO),
    "Network.VirtualEthernetExtra": (
        {"a": ["--network-veth-extra=a"], "a:b": ["--network-veth-extra=a:b"]},
        (*NAMES[:1], "x" * 16, "a:b:c"),
    ),
    "Network.Interface": (
        {"eth1 eth2:lan": ["--network-interface=eth1", "--network-interface=eth2:lan"]},
        NAMES[:1],
    ),
    "Network.MACVLAN": (
        {"eth0": ["--network-macvlan=eth0"], "eth0:lan": ["--network-macvlan=eth0:lan"]},
        NAMES[:1],
    ),
    "Network.IPVLAN": ({"eth0": ["--network-ipvlan=eth0"]}, NAMES[:1]),
    "Network.Bridge": ({"br0": ["--network-bridge=br0"]}, ("a/b", "", "12")),
    "Network.Zone": ({"lab": ["--network-zone=lab"]}, ("far-too-long-a-name", "a/b")),
    "Network.Port": (
        {
            "80": ["--port=tcp:80:80"],
            "udp:53": ["--port=udp:53:53"],
            "tcp:8080:80": ["--port=tcp:8080:80"],
            "8080:80": ["--port=tcp:8080:80"],
        },
        ("0", "65536", "sctp:80", "a", "80:", "1:2:3", "-1"),
    ),
    "Network.NamespacePath": ({"/run/netns/x": ["--network-namespace-path=/run/netns/x"]}, ("netns/x",)),
    "Network.MACAddress": (
        {"02:11:22:33:44:55": []},
        ("02:11:22:33:44", "01:00:00:00:00:00", "00:00:00:00:00:00"),
    ),
    "Image.Directory": ({"/srv/web": []}, PATHS),
    "Image.Image": ({"/srv/web.img": []}, PATHS),
    "Image.OCIBundle": ({"/srv/web": []}, PATHS),
    "Image.Template": ({"/srv/web": ["--template=/srv/web"]}, PATHS),
    "Image.ImagePolicy": ({"root=verity": ["--image-policy=root=verity"]}, ()),
    "Image.RootHash": ({"ab" * 32: ["--root-hash=" + "ab" * 32]}, ("ab", "xy" * 32)),
    "Image.RootHashSignature": ({"/etc/sig": ["--root-hash-sig=/etc/sig"]}, ("sig", "base64:!")),
    "Image.VerityData": ({"/srv/web.verity": ["--verity-data=/srv/web.verity"]}, PATHS),
    "Machine.Profile": ({"gpu nesting": []}, ("a/b", "-x")),
    "Machine.Device": (
        {"/dev/dri": [], "/dev//sda:/dev/vda:rwm": [], "nvidia.com/gpu=all": []},
        ("/etc/passwd", "/dev/../etc", "/dev/shm/x", "/dev/sda:/dev/a:/dev/b", "/dev/sda:wr", "gpu"),
    ),
    "Machine.XAuthority": ({"/root/.Xauthority": []}, PATHS),
}
