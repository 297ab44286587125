# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees that come, go and change behind the manager's back: labels after ##, and shell (see image_calls).

Each change is made by a plain command, and the answer is asked for at once.
"""

from typing import Final

SETUP: Final = r"""
for n in a b .hid "with space"; do make "$P/$n"; done
truncate -s 1M $P/raw.raw
mkdir -p /srv/far
make /srv/far/tree
names
show raw
"""

# What the directories are on these hosts does not matter: all is made anew.
STEPS: Final = r"""
## nothing but what is there
names
## a tree is made
make $P/new; names; show new; call GetImage s new
## and removed
rm -r $P/new; names; show new; call GetImage s new
## renamed
mv $P/a $P/c; names; call GetImage s a; call GetImage s c; mv $P/c $P/a
## hidden and shown
mv $P/b $P/.b; names; mv $P/.b $P/b; names
## two names for one
make $P/two; truncate -s 1M $P/two.raw; names; show two; rmdir $P/two 2>&1; rm -r $P/two; show two
rm $P/two.raw
## a name that wins
make /etc/machines/a; names; show a; rm -r /etc/machines; show a
## a name that wins from run
make /run/machines/a; show a; make /run/machines/only; names; rm -r /run/machines; names
## names that lose
make /usr/lib/machines/a; make /usr/lib/machines/vend; make /usr/local/lib/machines/loc; names; show a
show vend
rm -r /usr/lib/machines /usr/local/lib/machines; names
## the last of the places
make /var/lib/container/old; names; show old; rm -r /var/lib/container; names
## a directory instead of an image
mkdir $P/dir.raw $P/x.raw.v; names; show dir_2eraw; call GetImage s dir.raw; call GetImage s dir
rmdir $P/*.raw $P/*.v
## versions
mkdir $P/v.v; names; make $P/v.v/v_1; show v; make $P/v.v/v_2; show v; rm -r $P/v.v/v_2; show v
rm -r $P/v.v; names
## versions of disk images
mkdir $P/w.raw.v; truncate -s 1M $P/w.raw.v/w_1.raw; show w; truncate -s 2M $P/w.raw.v/w_1.raw; show w
truncate -s 3M $P/w.raw.v/w_3.raw; show w; names; rm -r $P/w.raw.v; names
## versions and none
mkdir $P/u.v $P/u; make $P/u.v/u_7; show u; names; rm -r $P/u; show u; rm -r $P/u.v; names
## links
ln -s /srv/far/tree $P/link; show link; mv /srv/far/tree /srv/far/t; names; call GetImage s link
mv /srv/far/t /srv/far/tree; show link; rm $P/link; names
## links to links
ln -s b $P/one; ln -s one $P/three; names; show three; rm $P/one; names; rm $P/three
## a link to disk images
truncate -s 1M /srv/far/disk; ln -s /srv/far/disk $P/l.raw; show l; truncate -s 2M /srv/far/disk; show l
chmod 0400 /srv/far/disk; show l; rm $P/l.raw; names
## not images
mkfifo $P/fifo $P/fifo.raw; touch $P/file $P/raw.nspawn $P/.#a.lck; mknod $P/tty c 1 3; mkdir $P/.#tmp
names
rm $P/fifo* $P/file $P/raw.nspawn $P/tty; rmdir $P/.#tmp
## odd names
mkdir $P/$'bad\xff' $P/$'new\nline' $P/$'tab\t' $P/größe $P/-dash $P/a:b "$P/q'uote"; names
for n in -dash größe; do call GetImage s -- $n; done
rmdir $P/$'bad\xff' $P/$'new\nline' $P/$'tab\t' $P/größe $P/-dash $P/a:b "$P/q'uote"
## of all lengths
n=$(printf 'x%.0s' $(seq 255)); mkdir $P/$n; names | cut -c1-20; rmdir $P/$n; touch $P/.raw; names
rm $P/.raw
## a host of its own
mkdir $P/.host; show _2ehost | sed -E 's/"(Creation|Modification)Timestamp":[^}]*}//g'; rmdir $P/.host
show _2ehost | sed -E 's/"(Creation|Modification)Timestamp":[^}]*}//g'
## block devices
mknod $P/blk b 7 0; names; show blk | grep -o 'Type[^}]*'; rm $P/blk; names
## unreadable
chmod 0 $P/a $P/raw.raw; show a; show raw; names; chmod 0755 $P/a; chmod 0644 $P/raw.raw; show raw
## immutable
chattr +i $P/a; show a; names; exec 9<$P/b; chattr +i $P/b; show b; chattr -i $P/a $P/b; show a; show b
## when it was made
setfattr -n user.crtime_usec -v 0x0040a6b3d9790500 $P/a; show a; setfattr -x user.crtime_usec $P/a
show a
## a disk image grows
truncate -s 5M $P/raw.raw; show raw
dd if=/dev/zero of=$P/raw.raw bs=4096 count=4 conv=notrunc,fsync status=none
show raw; touch -d @1000 $P/raw.raw; show raw; ln $P/raw.raw /srv/far/hard 2>&1
truncate -s 1M $P/raw.raw; show raw
## mounted over
mount -t tmpfs tmpfs $P/a; show a; mount -o remount,ro $P/a; show a; umount $P/a; show a
## mounted from elsewhere
mount --bind /srv/far/tree $P/b; show b; chattr +i /srv/far/tree; show b; umount $P/b; show b
chattr -i /srv/far/tree
## read-only by its mount
mount --bind $P/b $P/b; mount -o remount,bind,ro $P/b; show b; umount $P/b; show b
## a file by a mount
truncate -s 7M /srv/far/other; mount --bind /srv/far/other $P/raw.raw; show raw; umount $P/raw.raw
show raw
## another file system in its place
mount -t tmpfs tmpfs $P; names; make $P/inside; names; mount -o remount,ro $P; show inside; umount $P
names
## another directory in its place
mkdir /srv/pool; make /srv/pool/there; mount --bind /srv/pool $P; names; make /srv/pool/more; names
show more
umount $P; names; make /srv/pool/late; names
## a pool by a link
umount -l $P; names; rmdir $P; names; ln -s /srv/pool $P; names; show there; make /srv/pool/again; names
rm -r $P/again; names
## the link leads elsewhere
mkdir /srv/second; make /srv/second/far; ln -sfn /srv/second $P; names; show far; make /srv/second/x
names
## by another way
mv /srv/second /srv/third; names; ln -sfn /srv/third $P; names; show far
## nowhere
ln -sfn /srv/none $P; names; mkdir /srv/none; make $P/z; names; rm -r /srv/none; names
## no directory at all
rm $P; names; mkdir $P; names; make $P/end; names; show end
"""
