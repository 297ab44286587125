#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The first process of a test host: runs in fresh namespaces, sets the tree up and becomes its init.
# $1: the tree (a mount point), the rest: arguments for init. Writes its process id, as the world outside
# knows it, on stdout, and goes on when it is told to on stdin.
set -eu
root=$1
shift

# /proc still is the one of the namespace we come from.
read -r pid _ </proc/self/stat
echo "$pid"
read -r _

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
# Read-only, so that udevd skips itself and systemd-networkd does not wait for it.
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/dev"

# Every boot has an id of its own, or the journal could not tell one from the next.
cat /proc/sys/kernel/random/uuid >"$root/run/.boot-id"
mount --bind "$root/run/.boot-id" "$root/proc/sys/kernel/random/boot_id"
mount -o remount,bind,ro "$root/proc/sys/kernel/random/boot_id"
# A user namespace may mount a procfs of its own only where one without anything mounted on it can be seen.
mkdir -p "$root/run/host/proc"
mount -t proc -o nosuid,nodev,noexec proc "$root/run/host/proc"

for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net" "$root/dev/mapper"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5,nosuid,noexec devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mknod -m 0666 "$root/dev/net/tun" c 10 200
mknod -m 0666 "$root/dev/fuse" c 10 229
mknod -m 0660 "$root/dev/loop-control" c 10 237
for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    mknod -m 0660 "$root/dev/loop$number" b 7 "$number"
done
: >"$root/dev/console"

mkdir -p "$root/run/.old-root"
cd "$root"
pivot_root . run/.old-root
umount -l /run/.old-root
rmdir /run/.old-root
exec env -i container=testhost PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /sbin/init --log-target=journal "$@" </dev/null >/dev/null 2>&1
