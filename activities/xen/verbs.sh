# The verbs; dom0.sh, which comes before, has what they share.
case $verb in
facts) # NAME UUID BRIDGES [BRIDGE|PATH]...: what check asks, in sections begun by "== NAME"
	# A guest of Xen has /proc/xen as well, without control_d.
	if [ "$(cat /sys/hypervisor/type 2>/dev/null)" != xen ]; then fail $NODOM0 "it does not run on Xen"; fi
	if [ -e /proc/xen/capabilities ] && ! grep -q control_d /proc/xen/capabilities; then fail $NODOM0 "it is a guest of Xen"; fi
	command -v "$tool" >/dev/null || fail $NOTOOL "$tool"
	[ "$(id -u)" = 0 ] || fail $NOTROOT "$(id -un)"
	# Where BusyBox or something old stands in their place. tail is as new as sync -f.
	flock -s -w 1 /dev/null true 2>/dev/null || fail $NOUTIL "flock -w, of util-linux"
	command -v setsid >/dev/null || fail $NOUTIL "setsid, of util-linux"
	sync -f /proc 2>/dev/null || fail $NOUTIL "sync -f, of GNU coreutils 8.24 or newer"
	tail --pid=$$ -s 1 -c 0 /dev/null 2>/dev/null || fail $NOUTIL "tail --pid, of GNU coreutils"
	find /dev/null -printf '' 2>/dev/null || fail $NOUTIL "find -printf, of GNU findutils"
	name=$1 uuid=$2 bridges=$3
	shift 3
	# Without its daemon every tool of Xen waits for ever.
	timeout 10 xenstore-read /local/domain/0/name >/dev/null 2>&1 || fail $NOSTORE "xenstored does not answer"
	ours "$name" "$uuid"
	echo "== info"
	"$tool" info </dev/null || exit 1
	echo "== domains"
	domains
	echo "== bridges"
	while [ "$bridges" -gt 0 ]; do
		is_bridge "$1" && echo yes || echo no
		bridges=$((bridges - 1))
		shift
	done
	echo "== paths" # with the domain that writes to it, if there is one
	[ $# = 0 ] || all=$(backends)
	for path; do
		case $path in
		/*) echo "$(kind_of "$path") $(writer_of "$path" "$all")" ;;
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
	mkdir -p -m 700 "$root"
	hold
	mkdir -p -m 700 "$root/domains"
	mkdir -p "$root/domains/$1"
	echo "$2" >"$root/domains/$1/digest.new"
	mv "$root/domains/$1/digest.new" "$root/domains/$1/digest"
	if [ -d "$root/$2" ]; then
		echo whole
		exit
	fi
	check_space "$root" "$3"
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
		timeout 120 dd bs=64k count=8 iflag=fullblock status=none >>"$2" || fail $CORRUPT "less than 512 KiB of $2 came in two minutes"
		had=$have
		have=$(stat -c %s "$2")
		[ "$have" -gt "$had" ] || fail $CORRUPT "$have of $4 bytes of $2 came" # the rest may follow
	done
	echo "$5  $2" | sha256sum -c --status || {
		rm -f "$2"
		fail $CORRUPT "$2 came with another SHA-256"
	}
	;;

configure) # FOLDER DIGEST BYTES WRITES FILE...: all files of the image are there; the
	# domain's configuration, from stdin, and copies of its own to write to. WRITES are the
	# disks of the host that it writes to, a line each.
	dir=$root/domains/$1 image=$root/$2 bytes=$3 writes=$4
	settle "$2"
	shift 4
	lock "$dir" 300 || fail $ABSENT "$dir"
	for file; do
		[ ! -e "$dir/$file" ] || continue
		check_space "$dir" "$(du -k "$image/$file" | cut -f 1)"
		cp --sparse=always --reflink=auto "$image/$file" "$dir/$file.new"
		sync -f "$dir" # a name says that it is whole
		mv "$dir/$file.new" "$dir/$file"
	done
	cat >"$dir/domain.cfg.new"
	[ "$(stat -c %s "$dir/domain.cfg.new")" = "$bytes" ] || fail $CORRUPT "domain.cfg came incomplete"
	printf %s "$writes" >"$dir/writes"
	sync -f "$dir"
	mv "$dir/domain.cfg.new" "$dir/domain.cfg"
	;;

create) # FOLDER UUID: prints "created", "adopted" or "ended"; then how it was ready, if it was
	name=$1 uuid=$2 dir=$root/domains/$1
	lock "$dir" 300 || fail $ABSENT "$dir"
	[ -e "$dir/domain.cfg" ] || fail $ABSENT "$dir/domain.cfg"
	read -r boot </proc/sys/kernel/random/boot_id
	if [ "$(cat "$dir/created" 2>/dev/null)" = "$boot" ]; then
		ours "$name" "$uuid"
		if [ -n "$id" ] && lives "$id"; then echo adopted; else echo ended; fi
		cat "$dir/ready" 2>/dev/null || :
		exit
	fi
	# Without the mark it was cut off while it was made, or the host rebooted since.
	[ ! -e "$dir/create.log" ] || quell "$dir"
	# One domain at a time: libxl gives a hotplug script ten seconds, and the scripts of
	# many domains wait for each other.
	exec 8<"$root/domains"
	flock -w 300 8 || fail $BUSY "$root/domains"
	ours "$name" "$uuid"
	[ -z "$id" ] || "$tool" destroy "$id" >/dev/null 2>&1 || :
	[ ! -e "$dir/create.log" ] || scrap "$uuid"
	# libxl looks after block devices, not after files.
	[ ! -s "$dir/writes" ] || all=$(backends)
	while IFS= read -r disk || [ -n "$disk" ]; do
		holder=$(writer_of "$disk" "$all")
		[ -z "$holder" ] || fail $SHARED "$disk $holder"
	done <"$dir/writes"
	rm -f "$dir/ready" "$dir/created" "$dir/console.pid"
	: >"$dir/console.log"
	# To a file, not to the connection: that may break, and xl must not die of it.
	"$tool" create -p "$dir/domain.cfg" >"$dir/create.log" 2>&1 </dev/null 8<&- 9<&- || refuse "$dir/create.log"
	# The console is read from before the first instruction on, by a process that ends
	# with the domain. It has the terminal open before the domain runs: what one printed
	# that ends at once is gone with its terminal. Xen drops what is behind 64 MiB.
	tty=$(tty_of "$(id_of "$name")")
	(
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
	{ [ -n "$id" ] && lives "$id"; } || echo gone
	;;

state) # FOLDER UUID: as state_of has it
	[ -d "$root/domains/$1" ] || fail $ABSENT "$root/domains/$1"
	ours "$1" "$2"
	[ -n "$id" ] || { echo gone; exit; }
	state_of "$id"
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
		gone=$rebooted
		pid=$(cat "$dir/console.pid" 2>/dev/null || :) # none: it has not begun
		[ -z "$pid" ] || [ "/proc/$pid/fd/1" -ef "$dir/console.log" ] || gone=yes
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
	timeout 10 xenstore-read /local/domain/0/name >/dev/null 2>&1 || fail $NOSTORE "xenstored does not answer"
	ls "$root/domains" 2>/dev/null || :
	domains | cut -d ' ' -f 2-
	;;

destroy) # FOLDER UUID GRACE: ends the domain, removes its folder; says what it removed
	dir=$root/domains/$1
	lock "$dir" 300 || :
	[ -e "$dir/created" ] || [ ! -e "$dir/create.log" ] || quell "$dir"
	ours "$1" "$2"
	if [ -n "$id" ]; then
		# What xl shutdown does, but that it waits a minute for a guest that does not
		# listen. One that does clears the word at once, or when it comes to it: Linux
		# says that it will, MirageOS does not.
		at=/local/domain/$id
		hears=20
		[ "$(xenstore-read "$at/control/feature-poweroff" 2>/dev/null)" != 1 ] || hears=$(($3 * 10))
		xenstore-write "$at/control/shutdown" poweroff 2>/dev/null || :
		n=0
		while [ $n -lt $hears ] && [ "$(xenstore-read "$at/control/shutdown" 2>/dev/null)" = poweroff ]; do
			n=$((n + 1))
			sleep 0.1
		done
		[ $n = $hears ] || { # it listens, or is gone
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
	[ -d "$root" ] || exit 0
	hold
	# The folder goes last: by its name it is found again if this is cut off.
	rm -f "$dir/digest"
	sweep
	if [ -d "$dir" ]; then
		rm -rf "$dir"
		echo "folder $dir"
	fi
	rmdir "$root/domains" 2>/dev/null || :
	;;

*) fail 2 "no verb $verb" ;;
esac
