# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines for both clients: {guest} runs, {tree} and {raw} are images, `nope` is not there."""

from __future__ import annotations

# They change nothing.
READING = """
list --max-addresses=0
list --max-addresses=0 --no-legend
list --all --max-addresses=0
list-images
list-images --all
list-images --no-legend
list-images -o json
list-images -o json-pretty
list-images --output=verbose
image-status
image-status {tree}
image-status {raw} {tree} .host
image-status {guest}
show-image
show-image --all
show-image {tree}
show-image {raw} {tree}
show-image {raw} --all
show-image -p Name -p Usage {raw}
show-image --value -p Limit {tree}
show-image -P PoolPath
show-image -p Nonsense {tree}
show
show {guest}
show --all {guest} .host
show -P Class {guest}
show {guest} -p Name -p Unit -p State
status --lines=0 {guest}
cat {guest}
cat one two three
cat one.nspawn nope two
cat /etc/hostname one
cat nope
image-status {tree} nope
show-image {raw} nope {tree}
--output=help
--verify=help
kill --signal=list {guest}
--format=gzip list-images
-E list-images=x list-images
--uid= list-images
list-images -q --no-pager --full
""".strip().splitlines()

# Refused, by the daemon or before it is asked; the reasons are the same.
REFUSED = """
image-status nope
show-image nope
status nope
show nope
kill nope
kill --kill-whom=frob {guest}
kill --signal=frob {guest}
remove nope
remove a/b
rename nope x
rename {tree} {raw}
rename {tree} a/b
clone nope x
clone {tree} {raw}
clone {tree} a/b
remove {guest}
rename {guest} other
read-only nope
read-only nope frob
read-only {tree} maybe
set-limit 1G
set-limit frob
set-limit 5KB
set-limit .5G
set-limit 16E
set-limit -- -1
set-limit 500M,1G
set-limit nope 1G
set-limit nope frob
set-limit {tree} 1G
set-limit {tree} -
set-limit {tree} none
set-limit {tree} infinity
set-limit {raw} 1.5G
bind nope /x
bind {guest} relative
bind {guest} /etc/../x
bind {guest} /tmp
bind .host /tmp /mnt
copy-to nope /etc/hostname
copy-to {guest} /nonexist /x
copy-to {guest} /etc/hostname relative
copy-to {guest} /etc/hostname /etc/passwd
copy-to .host /etc/hostname /tmp/x
copy-from nope /etc/hostname
copy-from {guest} /etc/nonexist /tmp/x
copy-from {guest} relative /tmp/x
copy-from {guest} /etc/passwd /etc/passwd
cat a/b
cat /etc/../etc/hostname
-V cat one
-M .host cat one
edit one
start nope
enable nope
disable nope
terminate nope
poweroff nope
reboot nope
login nope
shell nope
login --uid=1 {guest}
frob
list extra
clean extra
clone {tree}
clone a b c
rename {tree}
remove
edit
cat
bind {guest}
bind a b c d
copy-to {guest}
copy-from
read-only
read-only {tree} yes no
set-limit
set-limit a b c
status
start
kill
--runner=frob list
--runner= list
--lines=-1 list
--lines= list
--verify=frob list
--format= list
--format=frob list
--output=frob list
--output= list
--max-addresses=x list
--setenv=1=2 list
--now=1 list
--frob list
--property
""".strip().splitlines()

# Refused by both, each with its own words for the reason.
OWN_WORDS = """
start a_b
enable a/b
cat /nonexist
--machine= list
--host= list
-M box list
-M box image-status
-M nope list
-H far list
-M nope -H far list
-Z list
--n list
cancel-transfer 4
import-tar
""".strip().splitlines()


# Since 262. Before, systemd's client does not know them, and ours says what is missing.
MODERN = """
pause {guest}
resume {guest}
bind-volume {guest} fs:vol
bind-volume {guest} fs:vol:a:b:c
unbind-volume {guest} fs:vol
unbind-volume {guest} foo
-M .host unbind-volume {guest} foo:bar
""".strip().splitlines()
