# SPDX-License-Identifier: LGPL-2.1-or-later
"""The calls about images whose answers are compared: labels after ##, and shell (see image_calls)."""

from typing import Final

# What is there before the first call.
PLAIN_SETUP: Final = r"""
for n in a b "with space" .hid ren ro; do make "$P/$n"; done
dd if=/dev/zero of=$P/raw.raw bs=1M count=2 status=none
chmod 0640 $P/raw.raw
mkdir -p /etc/systemd/nspawn /usr/lib/machines
make /usr/lib/machines/vend
echo [Exec] >/etc/systemd/nspawn/a.nspawn
echo [Exec] >$P/a.nspawn
echo hash >$P/raw.roothash
truncate -s 2M /srv/disk
L=$(losetup -f --show /srv/disk)
ln -s $L $P/blk
make /srv/tree
ln -s /srv/tree $P/link
echo fifo >$P/a/file
mkfifo $P/a/pipe
ln $P/a/file $P/a/hard
chown 1:2 $P/a/file
chmod 4755 $P/a/file
truncate -s 1M $P/a/sparse
mkdir $P/vers.v $P/vr.raw.v $P/empty.v
for n in 1 10 9; do make $P/vers.v/vers_$n; cp $P/raw.raw $P/vr.raw.v/vr_$n.raw; done
mkdir $P/d2.raw $P/x.mstack
ln -s nowhere $P/dangling
ln -s /srv/disk $P/linked.raw
mkfifo $P/fifo
touch $P/file
"""

BTRFS_SETUP: Final = r"""
truncate -s 300M /srv/pool
mkfs.btrfs -q /srv/pool
mount -o loop /srv/pool $P
make $P/plain
btrfs subvolume create $P/sub
make $P/sub
mkdir $P/sub/var
btrfs subvolume create $P/sub/var/inner
echo deep >$P/sub/var/inner/file
make $P/dirwith
btrfs subvolume create $P/dirwith/nested
dd if=/dev/zero of=$P/raw.raw bs=1M count=2 status=none
ln -s $P/sub $P/lnk
"""

PLAIN: Final = r"""
## list
names
## list all kinds
names; for n in vers vr linked d2_2eraw x x_2emstack; do show $n; done
## show a
show a
## show space
show with_20space
## show raw
show raw
## show blk
show blk
## pool
busctl get-property $M PoolPath PoolUsage PoolLimit
## remove none
call RemoveImage s none
## remove bad
call RemoveImage s a/b
## remove empty
call RemoveImage s ''
## rename none
call RenameImage ss none x
## rename bad
call RenameImage ss a a/b
## rename exists
call RenameImage ss a b
## rename host
call RenameImage ss .host x
## rename to host
call RenameImage ss a .host
## rename hash
call RenameImage ss a .#x
## rename vendor
call RenameImage ss vend x
## remove vendor
call RemoveImage s vend
## remove host
call RemoveImage s .host
## clone none
call CloneImage ssb none x false
## clone exists
call CloneImage ssb a b false
## clone bad
call CloneImage ssb a a/b false
## clone to host
call CloneImage ssb a .host false
## clone blk
call CloneImage ssb blk c false
## clone a
call CloneImage ssb a a2 false
## clone ro
call CloneImage ssb a a3 true
## clone vendor
call CloneImage ssb vend v2 false
## clone hidden
call CloneImage ssb .hid h2 false
## clone to hidden
call CloneImage ssb b .b2 false
## clone raw
call CloneImage ssb raw raw2 false
## clone raw ro
call CloneImage ssb raw raw3 true
## clone link
call CloneImage ssb link link2 false
## clone to ends of names
for n in q.raw q.v; do call CloneImage ssb a $n false; done
call CloneImage ssb raw rawq.raw false; call RenameImage ss rawq.raw rawq.v; ls -d $P/q.* $P/rawq*
rm -rf $P/q.raw $P/q.v $P/rawq.*
## tree 1
tree
## tree a2
cd $P/a2; find . -printf '%P %M %U %G %n %y\n' | sort; lsattr -d . ../a3 | cut -c1-6
## nspawn
ls -l /etc/systemd/nspawn | tail -n +2 | sed 's/ [A-Z].*:.. / /'
## list 1
names
## show a3
show a3
## show raw3
show raw3
## rename a2
call RenameImage ss a2 a4
## rename imm
call RenameImage ss a3 a5
## rename raw
call RenameImage ss raw2 raw4
## rename link
call RenameImage ss link2 link3
## lsattr
lsattr -d $P/a5 | cut -c1-6
## rename object
image a4 Rename s a2
## rename object bad
image a4 Rename s a2
## rename blk
call RenameImage ss blk blk2
## rename link itself
call RenameImage ss link lnk
## tree 2
tree
## srv
ls /srv
## nspawn 2
ls /etc/systemd/nspawn
## ro a
call MarkImageReadOnly sb a true
## ro a again
call MarkImageReadOnly sb a true
## lsattr a
lsattr -d $P/a | cut -c1-6
## show ro a
show a
## rw a
image a MarkReadOnly b false
## ro raw
call MarkImageReadOnly sb raw true
## ls raw
stat -c %A $P/raw.raw
## rw raw
call MarkImageReadOnly sb raw false
## ls raw 2
stat -c %A $P/raw.raw
## ro blk
call MarkImageReadOnly sb blk2 true
## blk ro
show blk2; show blk; blockdev --getro $L
## rw blk
call MarkImageReadOnly sb blk2 false; call MarkImageReadOnly sb blk false
## ro host
call MarkImageReadOnly sb .host true
## ro vend
call MarkImageReadOnly sb vend true
## ro hid
call MarkImageReadOnly sb .hid true
## rw hid
call MarkImageReadOnly sb .hid false
## limit a
call SetImageLimit st a 1000000
## limit raw
call SetImageLimit st raw 1000000
## limit range
call SetImageLimit st a 9223372036854775808
## limit inf
call SetImageLimit st a 18446744073709551615
## limit host
call SetImageLimit st .host 100000
## limit vend
call SetImageLimit st vend 100000
## limit none
call SetImageLimit st none 10000
## pool limit
call SetPoolLimit t 100000000
## pool limit range
call SetPoolLimit t 9223372036854775808
## pool limit inf
call SetPoolLimit t 18446744073709551615
## hostname
call GetImageHostname s a
## id
call GetImageMachineID s a
## info
call GetImageMachineInfo s a
## os
call GetImageOSRelease s a
## hostname none
call GetImageHostname s none
## hostname bad
call GetImageHostname s a/b
## object
image b GetHostname; image b GetMachineID; image b GetMachineInfo; image b GetOSRelease
## empty
rm -r $P/ro/*; for m in Hostname MachineID MachineInfo OSRelease; do call GetImage$m s ro; done
## evil links
rm $P/b/etc/hostname; ln -s /srv/../../../../../../etc/hostname $P/b/etc/hostname;
rm $P/b/etc/machine-info; ln -s /proc/self/status $P/b/etc/machine-info; call GetImageHostname s b;
call GetImageMachineInfo s b
## comments
rm $P/b/etc/hostname; printf '# c\n\n  my.name.example  \nother\n' >$P/b/etc/hostname;
echo uninitialized >$P/b/etc/machine-id; call GetImageHostname s b; call GetImageMachineID s b
## bad hostname
echo 'a b!' >$P/b/etc/hostname; echo 0123 >$P/b/etc/machine-id; call GetImageHostname s b;
call GetImageMachineID s b
## bad hostname 2
printf 'a?b\n' >$P/b/etc/hostname; call GetImageHostname s b;
echo 01234567-89ab-cdef-0123-456789abcdef >$P/b/etc/machine-id;  call GetImageMachineID s b;
echo 00000000000000000000000000000000 >$P/b/etc/machine-id;  call GetImageMachineID s b;
printf 'a.b.\n' >$P/b/etc/hostname; call GetImageHostname s b; echo under_score >$P/b/etc/hostname;
call GetImageHostname s b; echo A.B >$P/b/etc/hostname; call GetImageHostname s b
## big file
rm -f $P/b/etc/machine-info; (echo A=1; head -c 5000000 /dev/zero | tr '\0' x) >$P/b/etc/machine-info;
call GetImageMachineInfo s b
## raw meta
call GetImageHostname s raw
## blk meta
call GetImageHostname s blk2
## locked
hold $P/.#a.lck; call RemoveImage s a; call RenameImage ss a q; call MarkImageReadOnly sb a true;
call GetImageHostname s a; call CloneImage ssb a lockclone false;
vl List '{"name":"a","acquireMetadata":"yes"}'; vl List '{"name":"a","acquireMetadata":"graceful"}';
vl Remove '{"name":"a"}'; vl Update '{"name":"a","readOnly":true}'; release
## vl list one
vl List '{"name":"a"}'
## vl list yes
vl List '{"name":"a","acquireMetadata":"yes"}'
## vl list raw
vl List '{"name":"raw"}'
## vl list raw yes
vl List '{"name":"raw","acquireMetadata":"yes"}'
## vl list none
vl List '{"name":"none"}'
## vl list bad
vl List '{"name":"a/b"}'
## vl list all
vm List '{}' | sort
## vl list nomore
vl List '{}'
## vl list meta
vm List '{"acquireMetadata":"graceful"}' | grep -v '"\.host"' | sort
## vl list host
vl List '{"name":".host"}'
## vl list enum
vl List '{"acquireMetadata":"x"}'
## vl clone
vl Clone '{"name":"a","newName":"vc"}'
## vl clone exists
vl Clone '{"name":"a","newName":"vc"}'
## vl clone bad
vl Clone '{"name":"a","newName":"a/b"}'
## vl clone none
vl Clone '{"name":"none","newName":"x"}'
## vl clone missing
vl Clone '{"name":"none"}'
## vl clone badname
vl Clone '{"name":"a/b","newName":""}'
## vl update
vl Update '{"name":"vc","newName":"vd","readOnly":true}'; show vd
## vl update limit
vl Update '{"name":"vd","readOnly":false,"limit":1000000}'; show vd
## vl update nothing
vl Update '{"name":"vd"}'
## vl update exists
vl Update '{"name":"vd","newName":"a"}'
## vl update host
vl Update '{"name":".host","newName":"zz"}'
## vl update host2
vl Update '{"name":".host","readOnly":true, "limit":5}'
## vl update badlimit
vl Update '{"name":"vd","limit":-1}'
## vl update strlimit
vl Update '{"name":"vd","limit":"1000000"}'
## vl update hugelimit
vl Update '{"name":"vd","limit":9223372036854775809}'
## vl remove
vl Remove '{"name":"vd"}'
## vl remove again
vl Remove '{"name":"vd"}'
## vl remove host
vl Remove '{"name":".host"}'
## vl remove bad
vl Remove '{"name":""}'
## vl pool limit
vl SetPoolLimit '{"limit":100000000}'
## vl pool limit bad
vl SetPoolLimit '{"limit":-5}'
## vl pool limit range
vl SetPoolLimit '{"limit":9223372036854775808}'
## vl clean nomore
vl CleanPool '{"mode":"hidden"}'
## vl clean mode
vm CleanPool '{"mode":"secure"}'
## ctl list
/usr/bin/machinectl list-images --no-legend --all | sed 's/ *$//'
## ctl show
/usr/bin/machinectl show-image a; /usr/bin/machinectl show-image | sed 's/PoolUsage.*//'
## ctl status
/usr/bin/machinectl image-status a --no-pager
## ctl clone
/usr/bin/machinectl clone a ctl1
## ctl rename
/usr/bin/machinectl rename ctl1 ctl2
## ctl ro
/usr/bin/machinectl read-only ctl2 yes; /usr/bin/machinectl read-only ctl2 no
## ctl limit
/usr/bin/machinectl set-limit ctl2 1G; /usr/bin/machinectl set-limit 10G
## ctl remove
/usr/bin/machinectl remove ctl2; /usr/bin/machinectl remove ctl2
## remove a
call RemoveImage s a; tree; ls /etc/systemd/nspawn
## remove imm
image a5 Remove
## remove raw
call RemoveImage s raw3
## remove link
call RemoveImage s lnk; call RemoveImage s link; tree; ls -A /srv
## remove blk
call RemoveImage s blk2; call RemoveImage s blk
## clean mode
call CleanPool s secure
## clean hidden
call CleanPool s hidden | rows
## clean hidden again
call CleanPool s hidden | rows
## tree 3
tree
## ctl clean
make $P/.x; /usr/bin/machinectl clean
## vl clean
make $P/.x; vm CleanPool '{"mode":"hidden"}'; vm CleanPool '{"mode":"hidden"}'
## clean all
call CleanPool s all | rows
## tree end
tree; find $P /run/systemd/nspawn/locks -name '*.lck' -o -name 'name-*'
## loop
losetup -d $L; ls /srv; rm -rf $P/* $P/.[a-z]*
"""

BTRFS: Final = r"""
## list
names
## show sub
show sub
## pool
busctl get-property $M PoolPath PoolUsage PoolLimit
## limit noquota
call SetImageLimit st sub 100000000
## clone noquota
call CloneImage ssb sub s0 false
## show s0
show s0
## subvols 0
btrfs subvolume list -o $P | sed 's/.*path//' | sort
## inner 0
ls -lR $P/s0/var | sed 's/[A-Z][a-z][a-z] .*:.. //'; cat $P/s0/var/inner/file
## pool limit
call SetPoolLimit t 200000000
## pool 2
busctl get-property $M PoolLimit; btrfs quota rescan -w $P >/dev/null 2>&1; sync
btrfs qgroup show -re --raw $P | sed -E 's/ +/ /g'
## clone
call CloneImage ssb sub s1 false
## clone ro
call CloneImage ssb sub s2 true
## clone plain
call CloneImage ssb plain p1 false
## clone plain ro
call CloneImage ssb plain p2 true
## clone dirwith
call CloneImage ssb dirwith d1 false
## clone raw
call CloneImage ssb raw r1 true
## clone lnk
call CloneImage ssb lnk l1 false
## list 2
names
## subvols
btrfs subvolume list -o $P | sed 's/.*path//' | sort
## ro inner
btrfs property get $P/s2 ro; btrfs property get $P/s2/var/inner ro; cat $P/s2/var/inner/file
## qgroups
sync; btrfs qgroup show -rep --raw $P | sed -E 's/ +/ /g; s/[0-9]{5,}/N/g'
## attr
lsattr -d $P/* 2>/dev/null | sed 's,/var.*/, ,'; stat -c '%n %a %u' $P/*
## limit
call SetImageLimit st s1 50000000
## show s1
show s1 | sed -E 's/"(Usage|UsageExclusive)":[^}]*}//g'
## limit plain
call SetImageLimit st plain 5000000
## limit off
call SetImageLimit st s1 18446744073709551615
## show s1b
show s1 | sed -E 's/"(Usage|UsageExclusive)":[^}]*}//g'
## ro
call MarkImageReadOnly sb s1 true; btrfs property get $P/s1 ro; show s1 | grep -o ReadOnly.*Creat
## rw
call MarkImageReadOnly sb s1 false; btrfs property get $P/s1 ro
## ro lnk
call MarkImageReadOnly sb lnk true; call MarkImageReadOnly sb lnk false
## rename
call RenameImage ss s1 s3; call RenameImage ss s2 s4
## subvols 2
btrfs subvolume list -o $P | sed 's/.*path//' | sort
## meta
for m in Hostname MachineID MachineInfo OSRelease; do call GetImage$m s sub; done
## vl
vl List '{"name":"s4","acquireMetadata":"yes"}' | sed -E 's/"(usage|usageExclusive)":[0-9]+//g'
## vl clone
vl Clone '{"name":"sub","newName":"v1","readOnly":true}';
vl Update '{"name":"v1","limit":10000000,"readOnly":false}';
show v1 | sed -E 's/"(Usage|UsageExclusive)":[^}]*}//g'
## vl pool
vl SetPoolLimit '{"limit":150000000}'; busctl get-property $M PoolLimit
## pool off
call SetPoolLimit t 18446744073709551615; busctl get-property $M PoolLimit
## remove
call RemoveImage s s3; call RemoveImage s s4; call RemoveImage s d1; call RemoveImage s p2;
call RemoveImage s lnk; call RemoveImage s l1; call RemoveImage s dirwith; call RemoveImage s v1
## list 3
names
## subvols 3
btrfs subvolume list -o $P | sed 's/.*path//' | sort
## clean
btrfs subvolume snapshot $P/sub $P/.h >/dev/null; call CleanPool s hidden | rows
## clean all
call CleanPool s all | rows
## subvols 4
btrfs subvolume list -o $P | sed 's/.*path//' | sort; ls -A $P
## unmount
umount $P; rm -r /srv/*
"""
