# The verbs of the script; see dom0.sh. The first argument of each is the name of a
# rollout's folder, which is its domain's name too.
[ $# = 0 ] || check_names "$1"
dir=$root/domains/${1:-}
case $verb in
facts) # NAME UUID BRIDGES [BRIDGE|PATH]...: facts for check, in sections that begin with "== NAME"
	type='' capabilities=control_d
	read -r type 2>/dev/null </sys/hypervisor/type || :
	[ "$type" = xen ] || fail $NODOM0 "it does not run on Xen"
	# A guest of Xen has /proc/xen as well, without control_d.
	[ ! -e /proc/xen/capabilities ] || read -r capabilities </proc/xen/capabilities || capabilities=
	case $capabilities in *control_d*) ;; *) fail $NODOM0 "it is a guest of Xen" ;; esac
	command -v "$tool" >/dev/null || fail $NOTOOL "$tool"
	[ -O /proc/1/stat ] || fail $NOTROOT "$(id -un)"
	# The tools of BusyBox, and old ones, lack these options.
	flock -s -w 1 /dev/null true 2>/dev/null || fail $NOUTIL "flock -w, of util-linux"
	command -v setsid >/dev/null || fail $NOUTIL "setsid, of util-linux"
	sync -f /proc 2>/dev/null || fail $NOUTIL "sync -f, of GNU coreutils 8.24 or newer"
	tail --pid=$$ -s 1 -c 0 /dev/null 2>/dev/null || fail $NOUTIL "tail --pid, of GNU coreutils"
	name=$1 uuid=$2 bridges=$3
	shift 3
	probing=$NOSTORE
	find_own_domain "$name" "$uuid"
	echo "== info"
	"$tool" info </dev/null || exit 1
	echo "== domains"
	printf %s "$guests"
	echo "== folders"
	for each in "$root"/domains/*; do echo "${each##*/}"; done
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
			for each in /usr/lib/xen*/bin /usr/libexec/xen*/bin /usr/local/lib/xen/bin; do
				[ ! -x "$each/$path" ] || found=file
			done
			if command -v "$path" >/dev/null; then found=file; fi
			echo $found
			;;
		esac
	done
	;;

register) # FOLDER DIGEST CONFIG WRITES KIB FILES [NAME BYTES SHA256]... [COPY]...
	# Prints "whole" if the host has the image. Otherwise it prints for each file how many
	# bytes the host has, and reads the rest of the file from stdin. Then it makes a COPY
	# of each file that the domain writes to, and writes the configuration. WRITES: the
	# host's disks that the domain writes to, one a line.
	check_names "$2"
	digest=$2 config=$3 writes=$4 kib=$5 files=$6
	image=$root/$digest part=$root/.$digest.part
	shift 6
	[ -d "$root/domains" ] || mkdir -p -m 700 "$root" "$root/domains"
	lock_root
	if [ -d "$image" ]; then
		new=
		[ -d "$dir" ] || mkdir "$dir"
	else
		new=yes
		check_space "$root" "$kib"
		mkdir -p "$dir" "$part"
	fi
	had=
	read -r had 2>/dev/null <"$dir/digest" || :
	[ "$had" = "$digest" ] || echo "$digest" >"$dir/digest"
	unlock_root
	lock 9 "$dir" 300 || fail $ABSENT "$dir"
	if [ -n "$new" ]; then
		# shellcheck disable=SC2015 # either is enough
		lock 7 "$part" || { [ -d "$image" ] && new=; } || fail $ABSENT "$part"
	fi
	if [ -n "$new" ]; then cd "$part"; else echo whole; fi
	while [ "$files" -gt 0 ]; do
		check_names "$1"
		[ -z "$new" ] || receive "$@"
		files=$((files - 1))
		shift 3
	done
	check_names "$@"
	printf %s "$config" >"$dir/domain.cfg.new"
	printf %s "$writes" >"$dir/writes"
	if [ -n "$new" ]; then
		publish_image "$part" "$image" # with a sync
	else
		sync -f "$dir"
	fi
	for file; do
		[ ! -e "$dir/$file" ] || continue
		check_space "$dir" "$(du -k "$image/$file" | cut -f 1)"
		cp --sparse=always --reflink=auto "$image/$file" "$dir/$file.new"
		sync -f "$dir" # the final name marks a whole copy
		mv "$dir/$file.new" "$dir/$file"
	done
	mv "$dir/domain.cfg.new" "$dir/domain.cfg"
	;;

boot) # FOLDER UUID: makes the domain or finds it. Prints "created", "adopted" or "ended"
	# and a line that says how it was ready, empty if it was not; then the console, until
	# a line of stdin says how the domain is ready.
	lock 9 "$dir" 300 || fail $ABSENT "$dir"
	[ -e "$dir/domain.cfg" ] || fail $ABSENT "$dir/domain.cfg"
	made=
	read -r made 2>/dev/null <"$dir/created" || :
	if [ -n "$made" ] && is_this_boot "$made"; then
		find_own_domain "$1" "$2"
		if [ -n "$id" ] && lives "$id"; then echo adopted; else echo ended; fi
		ready=
		read -r ready 2>/dev/null <"$dir/ready" || :
		echo "$ready"
		[ -z "$ready" ] || exit 0
	else
		# Without this mark an earlier creation was cut off, or the host has rebooted.
		began=
		[ ! -e "$dir/create.log" ] || began=yes
		[ -z "$began" ] || kill_stray_create "$dir"
		# One domain at a time: libxl gives a hotplug script ten seconds, and the scripts
		# of several domains wait for each other.
		lock 8 "$root/domains" 300 || fail $ABSENT "$root/domains"
		find_own_domain "$1" "$2"
		[ -z "$id" ] || "$tool" destroy "$id" >/dev/null 2>&1 || :
		[ -z "$began" ] || destroy_by_uuid "$2"
		# libxl keeps two domains from writing to one block device, but not to one file.
		[ ! -s "$dir/writes" ] || all=$(backends)
		while IFS= read -r disk || [ -n "$disk" ]; do
			holder=$(writer_of "$disk" "$all")
			[ -z "$holder" ] || fail $SHARED "$disk $holder"
		done <"$dir/writes"
		[ -z "$began" ] || rm -f "$dir/ready" "$dir/created" "$dir/console.pid"
		: >"$dir/console.log"
		# xl's output goes to a file: the connection may break, and xl must not die of it.
		"$tool" create -p "$dir/domain.cfg" >"$dir/create.log" 2>&1 </dev/null 8<&- 9<&- || refuse "$dir/create.log"
		# A process that ends with the domain reads the console. It opens the terminal
		# before the domain runs: a domain that ends at once takes its terminal, and the
		# text, with it. Text past 64 MiB is dropped.
		find_domain "$1"
		find_tty "$id" "$dir"
		(
			exec 7<"$tty" # in a subshell: a session leader would get it as controlling terminal
			setsid dd bs=64k count=67108864 iflag=count_bytes status=none <&7 >>"$dir/console.log" 2>/dev/null 7<&- 8<&- 9<&- &
			echo $! >"$dir/console.pid"
		)
		"$tool" unpause "$1" >"$dir/create.log" 2>&1 </dev/null 8<&- 9<&- || refuse "$dir/create.log"
		read -r made </proc/sys/kernel/random/boot_id
		echo "$made" >"$dir/created"
		echo created
		echo
	fi
	exec 8<&- 9<&- 3<&0
	console_read "$dir" || pid=
	if [ -n "$pid" ]; then
		tail -c +1 -s 0.2 -f --pid="$pid" "$dir/console.log" 2>/dev/null </dev/null 3<&- &
		tail=$!
		# If stdin ends without a line, the call has ended: the domain is not ready.
		(
			if IFS= read -r ready; then printf '%s\n' "$ready" >"$dir/ready"; fi
			kill "$tail"
		) <&3 >/dev/null 2>&1 &
		wait "$tail" || :
		kill $! 2>/dev/null || :
		if [ -e "$dir/ready" ] && console_read "$dir"; then exit 0; fi
	else
		cat "$dir/console.log"
	fi
	exit $ENDED # the caller calls verb ready if the domain was ready
	;;

ready) # FOLDER UUID TEXT: records how the domain became ready; prints "gone" if it has ended
	lock 9 "$dir" || fail $ABSENT "$dir"
	printf '%s\n' "$3" >"$dir/ready"
	find_own_domain "$1" "$2"
	{ [ -n "$id" ] && lives "$id"; } || echo gone
	;;

observe) # FOLDER UUID: the domain's state, since when, and how it ended; "gone" if there is none
	find_own_domain "$1" "$2"
	state=gone
	[ -z "$id" ] || state=$(state_of "$id")
	[ "$state" = gone ] || echo "$state"
	read -r made 2>/dev/null <"$dir/created" || { echo gone; exit; }
	is_this_boot "$made" || { echo rebooted; exit; }
	stat -c 'since %Y' "$dir/created"
	# xl waits for the domain's end; its log may have the reason and the time.
	log=/var/log/xen/xl-$1.log
	if [ -e "$log" ] && ! [ "$log" -ot "$dir/create.log" ]; then
		sed -n 's/.*reason code \([0-9]*\) .*/reason \1/p' "$log" | tail -n 1
		stat -c 'ended %Y' "$log"
	fi
	;;

console) # FOLDER OFFSET BYTES SECONDS: prints up to BYTES of the console; waits up to SECONDS for text
	[ -d "$dir" ] || fail $ABSENT "$dir"
	for wait in "$4" 0; do
		gone=
		console_read "$dir" || gone=yes
		size=$(stat -c %s "$dir/console.log" 2>/dev/null || echo 0)
		[ "$size" -le "$2" ] || break
		[ -z "$gone" ] || exit $ENDED
		[ "$wait" -gt 0 ] || exit 0
		# tail sleeps until there is more text: many calls wait at once, and dom0 is
		# small. It runs in the background because an old tail notices --pid late.
		(timeout "$wait" tail -c +$(($2 + 1)) -s 0.2 -f ${pid:+--pid="$pid"} "$dir/console.log" 2>/dev/null &) |
			head -c 1 >/dev/null
	done
	tail -c +$(($2 + 1)) "$dir/console.log" | head -c "$3"
	;;

list) # what rollouts have here: "domain UUID NAME", "folder|image|mark SECONDS PATH" and "use FOLDER DIGEST"
	probing=$NOSTORE
	list_domains
	while read -r id uuid name; do
		[ -z "$id" ] || echo "domain $uuid $name"
	done <<-END
		$guests
	END
	for dir in "$root"/domains/*; do
		[ ! -d "$dir" ] || stat -c 'folder %Y %n' "$dir"
		[ ! -e "$dir/created" ] || stat -c 'mark %Y %n' "$dir/created"
		! read -r digest 2>/dev/null <"$dir/digest" || echo "use ${dir##*/} $digest"
	done
	for image in "$root"/* "$root"/.*.part; do
		[ "$image" = "$root/domains" ] || [ ! -d "$image" ] || stat -c 'image %Y %n' "$image"
	done
	;;

destroy) # FOLDER UUID GRACE [keep]: ends the domain; removes its folder, unless that is kept; lists the removed
	lock 9 "$dir" 300 || :
	[ -e "$dir/created" ] || [ ! -e "$dir/create.log" ] || kill_stray_create "$dir"
	find_own_domain "$1" "$2"
	if [ -n "$id" ]; then
		# This is what xl shutdown does, but xl waits a minute for a guest that ignores
		# the request. A guest that handles it clears control/shutdown. Linux announces in
		# control/feature-poweroff that it does, and gets the whole grace. MirageOS does not.
		at=/local/domain/$id
		hears=2
		[ "$(xenstore-read "$at/control/feature-poweroff" 2>/dev/null)" != 1 ] || hears=$3
		xenstore-write "$at/control/shutdown" poweroff 2>/dev/null || :
		! await_change "$at/control/shutdown" poweroff "$hears" || await_change "$at/name" "$1" "$3" || :
		"$tool" destroy "$id" >/dev/null 2>&1 || :
		destroy_by_uuid "$2"
		if [ "$tool" != xl ]; then
			gone=$id
			find_domain "$1"
			[ "$id" != "$gone" ] || fail $STAYS "$1"
		fi
		# If the domain was gone before xenstore-write, the write has made its node anew.
		[ "$(xenstore-list "$at" 2>/dev/null)" != control ] || xenstore-rm "$at"
		echo "domain $1"
	elif [ -e "$dir/create.log" ]; then
		destroy_by_uuid "$2"
	fi
	[ -d "$root" ] || exit 0
	if [ "${4:-}" = keep ]; then # without its marks, so that boot makes a new domain
		rm -f "$dir/created" "$dir/ready" "$dir/create.log"
		exit
	fi
	lock_root
	# The folder goes last: if this is cut off, it is found again by its name.
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
