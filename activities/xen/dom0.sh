# What a deploy does on the Xen host, one verb a call: ROOT TOOL VERB ARGUMENT...
# Nothing in here is made from input: every word comes as an argument. It is POSIX
# sh and uses what Debian's base system and Xen's tools bring.
#
# Whoever changes a folder holds a lock (flock) on the folder itself, so that no lock
# file stays behind. The lock is kept from xl, whose monitor would hold it for good.
set -eu
umask 022
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
root=$1 tool=$2 verb=$3
shift 3

# The ways to end other than well; dom0.go has the same list.
ABSENT=64 FOREIGN=65 REFUSED=66 BUSY=67 CORRUPT=68 NOSPACE=69 NODOM0=70 NOTOOL=71 STAYS=72 ENDED=73 NOTROOT=74 NOSTORE=75 SHARED=76
fail() {
	status=$1
	shift
	echo "$*" >&2
	exit "$status"
}

# id_of NAME prints the domain's id, nothing if there is none. It asks xenstore, for
# xl takes several times as long to start.
id_of() {
	for try in 1 2 3; do
		ids=$(xenstore-list /local/domain) paths=
		for each in $ids; do paths="$paths /local/domain/$each/name"; done
		# Fails if a domain came or went in between.
		# shellcheck disable=SC2086 # paths of numbers
		if names=$(xenstore-read $paths 2>/dev/null); then
			for each in $ids; do
				IFS= read -r name
				[ "$name" != "$1" ] || echo "$each"
			done <<-END
				$names
			END
			return
		fi
	done
	"$tool" domid "$1" 2>/dev/null || :
}

# ids_of UUID asks Xen itself, through xl: of an xl create that was killed there may be
# a domain without a name, and nothing in xenstore. xm has no -v.
ids_of() {
	"$tool" list -v 2>/dev/null | awk -v uuid="$1" '{ for (i = 6; i <= NF; i++) if ($i == uuid) print $(i - 5) }'
}

# scrap UUID destroys all domains that have it.
scrap() {
	n=0
	while ids=$(ids_of "$1"); [ -n "$ids" ]; do
		[ $n -lt 20 ] || fail $STAYS "$ids"
		for each in $ids; do "$tool" destroy "$each" >/dev/null 2>&1 || :; done
		n=$((n + 1))
		sleep 0.2
	done
}

# refuse FILE ends with what the tool said. One that was killed has refused nothing.
refuse() {
	status=$?
	cat "$1" >&2
	[ $status -le 128 ] || exit $status
	exit $REFUSED
}

# uuid_of ID works with every tool, for it is where they all keep it.
uuid_of() {
	vm=$(xenstore-read "/local/domain/$1/vm" 2>/dev/null) || return 0
	echo "${vm#/vm/}"
}

# ours NAME UUID sets id if the domain is there, and ends if it is somebody else's.
ours() {
	id=$(id_of "$1")
	[ -n "$id" ] && [ "$(uuid_of "$id")" != "$2" ] || return 0
	sleep 0.5 # it may be going just now
	id=$(id_of "$1")
	[ -z "$id" ] || [ "$(uuid_of "$id")" = "$2" ] || fail $FOREIGN "$(uuid_of "$id")"
}

# lock FOLDER [SECONDS] is false if it is not there, or not any more.
lock() {
	[ -d "$1" ] || return 1
	exec 9<"$1"
	flock -w "${2:-60}" 9 || fail $BUSY "$1"
	[ "$1" -ef /proc/self/fd/9 ]
}

# room FOLDER KIB
room() {
	free=$(df -Pk "$1" | awk 'END { print $4 }')
	[ "$2" -lt "$free" ] || fail $NOSPACE "$1 has $free KiB free, $2 KiB are needed"
}

# sweep removes the images that no domain uses. Only with the root locked.
sweep() {
	for image in "$root"/* "$root"/.*.part; do
		digest=${image##*/}
		digest=${digest#.}
		digest=${digest%.part}
		[ ${#digest} = 64 ] && [ -d "$image" ] || continue
		if ! cat "$root"/domains/*/digest 2>/dev/null | grep -qxF "$digest"; then
			rm -rf "$image"
			echo "image $image"
		fi
	done
	rmdir "$root/domains" 2>/dev/null || :
}

# writer_of PATH reads xenstore-ls -f of the backends and prints the domain that has it
# for writing: .../backend/qdisk/DOMAIN/DEVICE/params = "aio:PATH".
writer_of() {
	real=$(readlink -f "$1") # libxl has it as it was written, which may be a link
	awk -v path="$1" -v real="$real" -F ' = ' '
		{ node = $1; sub("/[^/]*$", "", node); value = substr($0, length($1) + 4); gsub("^\"|\"$", "", value) }
		$1 ~ "/params$" { sub("^[a-z0-9]+:", "", value); if (value == path || value == real) uses[node] = 1 }
		$1 ~ "/mode$" && value == "w" { writes[node] = 1 }
		END { for (node in uses) if (node in writes) { split(node, part, "/"); print part[7]; exit } }'
}

# settle DIGEST makes the image's folder of its parts, unless it is there.
settle() {
	part=$root/.$1.part
	if [ ! -d "$root/$1" ]; then
		lock "$part" || { [ -d "$root/$1" ] && return; fail $ABSENT "$part"; }
		if [ -e "$part/disk.tar" ]; then
			rm -rf "$part/unpacked"
			mkdir "$part/unpacked"
			tar -C "$part/unpacked" --no-same-owner --no-same-permissions -xSf "$part/disk.tar"
			mv "$part"/unpacked/* "$part/disk.img"
			rm -rf "$part/unpacked" "$part/disk.tar"
		fi
		sync -f "$part"
	elif [ ! -e "$part" ]; then
		return
	fi
	lock "$root" # reserve looks for the one or the other
	if [ -d "$root/$1" ]; then rm -rf "$part"; else mv -T "$part" "$root/$1"; fi
}

# tty_of NAME prints the terminal of the domain's console: that of an hvm domain's
# serial port, made by QEMU, or else the one that xenconsoled makes, soon.
tty_of() {
	at=/local/domain/$(id_of "$1")
	n=0
	until xenstore-read "$at/serial/0/tty" 2>/dev/null || xenstore-read "$at/console/tty" 2>/dev/null || [ $n -gt 50 ]; do
		n=$((n + 1))
		sleep 0.1
	done
}

# kind_of PATH
kind_of() {
	if [ -b "$1" ]; then echo block
	elif [ -f "$1" ]; then echo file
	elif [ -e "$1" ]; then echo other
	else echo missing; fi
}

# is_bridge NAME, of the kernel or of Open vSwitch
is_bridge() {
	[ -d "/sys/class/net/$1/bridge" ] || { command -v ovs-vsctl && ovs-vsctl br-exists "$1"; } >/dev/null 2>&1
}

case $verb in
facts) # NAME UUID BRIDGES [BRIDGE|PATH]...: what check asks, in sections begun by "== NAME"
	# A guest of Xen has /proc/xen as well, without control_d.
	if [ "$(cat /sys/hypervisor/type 2>/dev/null)" != xen ]; then fail $NODOM0 "it does not run on Xen"; fi
	if [ -e /proc/xen/capabilities ] && ! grep -q control_d /proc/xen/capabilities; then fail $NODOM0 "it is a guest of Xen"; fi
	command -v "$tool" >/dev/null || fail $NOTOOL "$tool"
	[ "$(id -u)" = 0 ] || fail $NOTROOT "$(id -un)"
	name=$1 uuid=$2 bridges=$3
	shift 3
	# Without its daemon every tool of Xen waits for ever.
	timeout 10 xenstore-read /local/domain/0/name >/dev/null 2>&1 || fail $NOSTORE "xenstored does not answer"
	ours "$name" "$uuid"
	echo "== info"
	"$tool" info </dev/null || exit $REFUSED
	echo "== free"
	at=$root
	until [ -d "$at" ]; do at=$(dirname "$at"); done
	df -Pk "$at" | awk 'END { print $4 }'
	echo "== bridges"
	while [ "$bridges" -gt 0 ]; do
		is_bridge "$1" && echo yes || echo no
		bridges=$((bridges - 1))
		shift
	done
	echo "== paths"
	for path; do
		case $path in
		/*) kind_of "$path" ;;
		*) # a boot loader of Xen's own: libxl looks there first
			found=missing
			for dir in /usr/lib/xen*/bin /usr/libexec/xen*/bin /usr/local/lib/xen/bin; do
				[ ! -x "$dir/$path" ] || found=file
			done
			if command -v "$path" >/dev/null; then found=file; fi
			echo $found
			;;
		esac
	done
	;;

reserve) # FOLDER DIGEST KIB: says what of the image is there: "whole", or "NAME BYTES" lines
	mkdir -p "$root"
	lock "$root"
	mkdir -p -m 700 "$root/domains"
	mkdir -p "$root/domains/$1"
	echo "$2" >"$root/domains/$1/digest.new"
	mv "$root/domains/$1/digest.new" "$root/domains/$1/digest"
	if [ -d "$root/$2" ]; then
		echo whole
		exit
	fi
	room "$root" "$3"
	mkdir -p "$root/.$2.part"
	find "$root/.$2.part" -maxdepth 1 -type f -printf '%f %s\n'
	;;

receive) # DIGEST NAME OFFSET BYTES SHA256: the file's bytes from the offset on, from stdin
	lock "$root/.$1.part" || { [ -d "$root/$1" ] && exit; fail $ABSENT "$root/.$1.part"; }
	cd "$root/.$1.part"
	have=0
	[ ! -e "$2" ] || have=$(stat -c %s "$2")
	if [ "$have" -gt "$4" ]; then # of a transfer that was never ours
		rm -f "$2"
		fail $BUSY "$2 had $have bytes"
	fi
	[ "$have" = "$3" ] || fail $BUSY "$2 has $have bytes" # another call sends it as well
	# By the piece: a sender that vanished without a word must not keep the lock.
	while [ "$have" -lt "$4" ]; do
		timeout 120 dd bs=64k count=64 iflag=fullblock status=none >>"$2" || fail $CORRUPT "nothing of $2 came for two minutes"
		had=$have
		have=$(stat -c %s "$2")
		[ "$have" -gt "$had" ] || fail $CORRUPT "$have of $4 bytes of $2 came" # the rest may follow
	done
	echo "$5  $2" | sha256sum -c --status || {
		rm -f "$2"
		fail $CORRUPT "$2 came with another SHA-256"
	}
	;;

configure) # FOLDER DIGEST TEXT FILE...: all files of the image are there; the domain's
	# configuration, and copies of its own to write to
	dir=$root/domains/$1 image=$root/$2 text=$3
	settle "$2"
	shift 3
	lock "$dir" 300 || fail $ABSENT "$dir"
	for file; do
		[ ! -e "$dir/$file" ] || continue
		room "$dir" "$(du -k "$image/$file" | cut -f 1)"
		cp --sparse=always --reflink=auto "$image/$file" "$dir/$file.new"
		mv "$dir/$file.new" "$dir/$file"
	done
	printf %s "$text" >"$dir/domain.cfg.new"
	sync -f "$dir"
	mv "$dir/domain.cfg.new" "$dir/domain.cfg"
	;;

create) # FOLDER UUID DISK...: prints "created", "adopted" or "ended"; then how it was ready,
	# if it was. The disks are those of the host that it writes to.
	name=$1 uuid=$2 dir=$root/domains/$1
	shift 2
	lock "$dir" 300 || fail $ABSENT "$dir"
	[ -e "$dir/domain.cfg" ] || fail $ABSENT "$dir/domain.cfg"
	ours "$name" "$uuid"
	boot=$(cat /proc/sys/kernel/random/boot_id)
	if [ -e "$dir/created" ] && [ "$(cat "$dir/created")" = "$boot" ]; then
		[ -n "$id" ] && echo adopted || echo ended
		cat "$dir/ready" 2>/dev/null || :
		exit
	fi
	# One domain at a time: libxl gives a hotplug script ten seconds, and the scripts of
	# many domains wait for each other.
	exec 8<"$root/domains"
	flock -w 300 8 || fail $BUSY "$root/domains"
	# Without the mark it was cut off while it was made, or the host rebooted since.
	[ -z "$id" ] || "$tool" destroy "$id" >/dev/null 2>&1 || :
	[ ! -e "$dir/create.log" ] || scrap "$uuid"
	# libxl looks after block devices, not after files.
	for disk; do
		holder=$(xenstore-ls -f /local/domain/0/backend 2>/dev/null | writer_of "$disk")
		[ -z "$holder" ] || fail $SHARED "$disk $(xenstore-read "/local/domain/$holder/name" 2>/dev/null || echo "$holder")"
	done
	rm -f "$dir/ready"
	: >"$dir/console.log"
	# To a file, not to the connection: that may break, and xl must not die of it.
	"$tool" create -p "$dir/domain.cfg" >"$dir/create.log" 2>&1 </dev/null 8<&- 9<&- || refuse "$dir/create.log"
	# The console is read from before the first instruction on, by a process that ends
	# with the domain. It has the terminal open before the domain runs: what one printed
	# that ends at once is gone with its terminal. Xen drops what is behind 64 MiB.
	(
		tty=$(tty_of "$name")
		[ -c "$tty" ] || tty=/dev/null
		exec 7<"$tty" # in a subshell: it would be the terminal of a session's leader
		setsid dd bs=64k count=67108864 iflag=count_bytes status=none <&7 >>"$dir/console.log" 2>/dev/null 7<&- 8<&- 9<&- &
		echo $! >"$dir/console.pid"
	)
	"$tool" unpause "$name" >"$dir/create.log" 2>&1 </dev/null 8<&- 9<&- || refuse "$dir/create.log"
	echo "$boot" >"$dir/created"
	echo created
	;;

ready) # FOLDER UUID TEXT: remembers how it was ready; says "gone" if it has ended
	lock "$root/domains/$1" || fail $ABSENT "$root/domains/$1"
	printf %s "$3" >"$root/domains/$1/ready.new"
	mv "$root/domains/$1/ready.new" "$root/domains/$1/ready"
	ours "$1" "$2"
	[ -n "$id" ] || echo gone
	;;

state) # FOLDER UUID: "gone", or "is" and the state as xl list has it: r, b, p, s, c, d
	[ -d "$root/domains/$1" ] || fail $ABSENT "$root/domains/$1"
	ours "$1" "$2"
	[ -n "$id" ] || { echo gone; exit; }
	"$tool" list "$1" 2>/dev/null | awk 'NR == 2 { gsub("-", "", $5); print "is " $5; n = 1 } END { if (!n) print "gone" }'
	;;

console) # FOLDER OFFSET BYTES SECONDS: a piece of the console, awaited for so long
	dir=$root/domains/$1
	[ -d "$dir" ] || fail $ABSENT "$dir"
	rebooted=
	if [ -e "$dir/created" ]; then
		read -r now </proc/sys/kernel/random/boot_id
		read -r was <"$dir/created" || :
		[ "$was" = "$now" ] || rebooted=yes # so its number is another process's, if anybody's
	fi
	for wait in "$4" 0; do
		gone=yes
		pid=$(cat "$dir/console.pid" 2>/dev/null || :)
		[ -n "$rebooted" ] || ! kill -0 "${pid:-$$}" 2>/dev/null || gone= # or not begun
		size=$(stat -c %s "$dir/console.log" 2>/dev/null || echo 0)
		[ "$size" -le "$2" ] || break
		[ -z "$gone" ] || exit $ENDED
		[ "$wait" -gt 0 ] || exit 0
		# Nothing runs until there is more: many wait at once, and dom0 is small. An old
		# tail that sees only later that nobody reads any more is not waited for.
		(timeout "$wait" tail -c +$(($2 + 1)) -s 0.2 -f ${pid:+--pid="$pid"} "$dir/console.log" 2>/dev/null &) |
			head -c 1 >/dev/null
	done
	tail -c +$(($2 + 1)) "$dir/console.log" | head -c "$3"
	;;

folders) # whose rollouts have something here: a folder or a domain
	ls "$root/domains" 2>/dev/null || :
	for id in $(xenstore-list /local/domain 2>/dev/null); do
		xenstore-read "/local/domain/$id/name" 2>/dev/null || :
	done
	;;

destroy) # FOLDER UUID GRACE: ends the domain, removes its folder; says what it removed
	dir=$root/domains/$1
	lock "$dir" 300 || :
	ours "$1" "$2"
	if [ -n "$id" ]; then
		# What xl shutdown does, but that it waits a minute for a guest that does not
		# listen. One that does clears the word at once.
		at=/local/domain/$id
		xenstore-write "$at/control/shutdown" poweroff 2>/dev/null || :
		n=0
		while [ $n -lt 10 ] && [ "$(xenstore-read "$at/control/shutdown" 2>/dev/null)" = poweroff ]; do
			n=$((n + 1))
			sleep 0.1
		done
		[ $n = 10 ] || { # it listens, or is gone
			n=0
			while [ $n -lt $(($3 * 5)) ] && [ "$(xenstore-read "$at/name" 2>/dev/null)" = "$1" ]; do
				n=$((n + 1))
				sleep 0.2
			done
		}
		"$tool" destroy "$id" >/dev/null 2>&1 || :
		scrap "$2"
		[ "$(id_of "$1")" != "$id" ] || fail $STAYS "$1" # xm
		# Had it gone before the word came, that made the node anew.
		[ "$(xenstore-list "$at" 2>/dev/null)" != control ] || xenstore-rm "$at"
		echo "domain $1"
	elif [ -e "$dir/create.log" ]; then
		scrap "$2"
	fi
	if [ -d "$dir" ]; then
		rm -rf "$dir"
		echo "folder $dir"
	fi
	exec 9<&-
	! lock "$root" || sweep
	;;

*) fail 2 "no verb $verb" ;;
esac
