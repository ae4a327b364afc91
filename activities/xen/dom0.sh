# This script does a deploy's work on the Xen host. Arguments: ROOT TOOL VERB ARGUMENT...
# This file has the functions that verbs share; verbs.sh comes after it. All input comes
# as arguments: no command is made from input. The script is POSIX sh and uses the
# programs of Debian's base system and of Xen. It starts few processes: each costs time in
# a small dom0.
#
# A verb locks (flock) the folder that it changes, so no lock file stays behind. xl gets
# no descriptor of a lock: its monitor process would keep the lock.
set -eu
umask 022
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
root=$1 tool=$2 verb=$3
shift 3

# The exit statuses; dom0.go has the same list.
ABSENT=64 FOREIGN=65 REFUSED=66 BUSY=67 CORRUPT=68 NOSPACE=69 NODOM0=70 NOTOOL=71 STAYS=72 ENDED=73 NOTROOT=74 NOSTORE=75 SHARED=76 NOUTIL=77 BADNAME=78
fail() {
	status=$1
	shift
	echo "$*" >&2
	exit "$status"
}

# check_names NAME... refuses a name that is not that of one file in a folder.
check_names() {
	for each; do
		case $each in "" | [.-]* | */*) fail $BADNAME "$each" ;; esac
	done
}

# list_domains sets guests to a line "ID UUID NAME" for each guest. It asks xenstore,
# because xl takes several times as long to start. If $probing is set, it waits 10 s for an
# answer and then fails with that status. Otherwise it waits for ever.
list_domains() {
	for try in 1 2 3; do
		guests='' ids='' paths=''
		# shellcheck disable=SC2086 # two words or none
		list=$(${probing:+timeout 10} xenstore-list /local/domain 2>&1) || fail ${probing:-1} "xenstored does not answer $list"
		for each in $list; do
			[ "$each" = 0 ] || ids="$ids $each" paths="$paths /local/domain/$each/vm /local/domain/$each/name"
		done
		[ -n "$ids" ] || return 0
		# xenstore-read fails if a domain came or went meanwhile, or one has no name.
		# shellcheck disable=SC2086 # paths of numbers
		if values=$(xenstore-read $paths 2>/dev/null); then
			for each in $ids; do
				IFS= read -r vm
				IFS= read -r name
				guests="$guests$each ${vm#/vm/} $name
"
			done <<-END
				$values
			END
			return 0
		fi
	done
	list=$("$tool" list 2>&1) || fail 1 "$tool list: $list"
	guests=$(echo "$list" | while read -r name each rest; do
		[ "$each" = ID ] || [ "$each" = 0 ] || echo "$each $(uuid_of "$each") $name"
	done)
}

# uuid_of ID prints the UUID of a domain, "-" if it cannot be read.
uuid_of() {
	vm=$(xenstore-read "/local/domain/$1/vm" 2>/dev/null) || vm=-
	echo "${vm#/vm/}"
}

# find_domain NAME sets id and uuid, empty if there is no domain of that name.
find_domain() {
	list_domains
	id='' uuid=''
	while read -r each vm name; do
		[ "$name" != "$1" ] || id=$each uuid=$vm
	done <<-END
		$guests
	END
}

# find_own_domain NAME UUID is find_domain for the domain of a rollout. It ends the script
# if the domain's UUID is another one or cannot be read.
find_own_domain() {
	for try_again in 1 2 3; do
		find_domain "$1"
		[ -n "$id" ] && [ "$uuid" != "$2" ] || return 0
		sleep 0.3 # it may be about to vanish
	done
	[ "$uuid" != - ] || fail 1 "xenstore has no UUID of domain $id"
	fail $FOREIGN "$uuid"
}

# destroy_by_uuid UUID destroys all domains of this UUID. It asks Xen through xl: a domain
# of a killed xl create may lack a name and not be in xenstore. xm has no list -v.
destroy_by_uuid() {
	n=0
	while [ "$tool" = xl ]; do
		list=$("$tool" list -v 2>&1) || fail 1 "$tool list: $list"
		ids=$(echo "$list" | awk -v uuid="$1" '{ for (i = 6; i <= NF; i++) if ($i == uuid) print $(i - 5) }')
		[ -n "$ids" ] || return 0
		[ $n -lt 20 ] || fail $STAYS "$ids"
		for each in $ids; do "$tool" destroy "$each" >/dev/null 2>&1 || :; done
		n=$((n + 1))
		sleep 0.2
	done
}

# kill_stray_create FOLDER kills an xl create that outlived its call, and so its lock: it
# would make a second domain.
kill_stray_create() {
	for each in $(grep -lzxF "$1/domain.cfg" /proc/[0-9]*/cmdline 2>/dev/null); do
		! grep -qzxF create "$each" 2>/dev/null || {
			each=${each#/proc/}
			kill -9 "${each%/cmdline}" 2>/dev/null || :
		}
	done
}

# refuse FILE ends the script as REFUSED with the tool's output; if a signal ended the
# tool, with the tool's status.
refuse() {
	status=$?
	cat "$1" >&2
	[ $status -le 128 ] || exit $status
	exit $REFUSED
}

# state_of ID prints "gone", or "is" and the state as xl list has it: r, b, p, s, c, d.
# It lists all domains: xl has no exit status of its own for an ID that is not there.
state_of() {
	list=$("$tool" list 2>&1) || fail 1 "$tool list: $list"
	echo "$list" | awk -v id="$1" '$(NF - 4) == id { gsub("-", "", $(NF - 1)); print "is " $(NF - 1); n = 1 } END { if (!n) print "gone" }'
}

# lives ID is false for a domain that has ended, even if Xen preserves it after a crash.
lives() {
	state=$(state_of "$1") || exit
	case $state in gone | "is "*[scd]*) return 1 ;; esac
}

# console_read FOLDER sets pid to the process that reads the domain's console. It is false
# if that process has ended, as it does with the domain, or if the host has rebooted.
# Before the first boot pid is empty, and console_read is true.
console_read() {
	pid=
	read -r pid 2>/dev/null <"$1/console.pid" || return 0
	[ "/proc/$pid/fd/1" -ef "$1/console.log" ] || return 1
	! read -r was 2>/dev/null <"$1/created" || is_this_boot "$was"
}

# is_this_boot ID says whether the host still runs the boot of that ID.
is_this_boot() {
	read -r now </proc/sys/kernel/random/boot_id
	[ "$1" = "$now" ]
}

# lock FD FOLDER [SECONDS] is false if the folder is missing, or was removed meanwhile.
lock() {
	{ eval "command exec $1<\"\$2\""; } 2>/dev/null || return 1
	flock -w "${3:-60}" "$1" || fail $BUSY "$2"
	[ "$2" -ef "/proc/self/fd/$1" ]
}

# lock_root locks the root, unlock_root unlocks it. A verb that holds this lock waits
# for no other one.
lock_root() { lock 8 "$root" || fail 1 "$root is away"; }
unlock_root() { exec 8<&-; }

# check_space FOLDER KIB ends the script if the folder's disk has no KIB free.
check_space() {
	where=$1 need=$2
	set -- $(df -Pk "$1" | tail -n 1) # device, size, used, free
	[ "$need" -lt "$4" ] || fail $NOSPACE "$where has $4 KiB free, $need KiB are needed"
}

# sweep removes the images that no rollout uses. The caller holds lock_root. An image is
# renamed first: a half-removed one would be taken for a whole one.
sweep() {
	used=
	for each in "$root"/domains/*/digest; do
		! read -r digest 2>/dev/null <"$each" || used="$used $digest"
	done
	for image in "$root"/.gone.*; do
		[ ! -d "$image" ] || rm -rf "$image" # of a sweep that was cut off
	done
	for image in "$root"/* "$root"/.*.part; do
		digest=${image##*/}
		digest=${digest#.}
		digest=${digest%.part}
		case "$used " in *" $digest "*) continue ;; esac
		[ ${#digest} = 64 ] && [ -d "$image" ] || continue
		mv -T "$image" "$root/.gone.$digest"
		rm -rf "$root/.gone.$digest"
		echo "image $image"
	done
}

# backends prints all backends of dom0, for writer_of.
backends() {
	xenstore-ls -f /local/domain/0/backend 2>/dev/null || :
}

# writer_of PATH BACKENDS prints the name of the domain that has it for writing, or the
# domain's id if it has no name: .../backend/qdisk/DOMAIN/DEVICE/params = "aio:PATH".
writer_of() {
	printf '%s\n' "$2" | awk -F ' = ' '
		{ node = $1; sub("/[^/]*$", "", node); value = substr($0, length($1) + 4); gsub("^\"|\"$", "", value) }
		$1 ~ "/params$" { sub("^[a-z0-9]+:", "", value); path[node] = value }
		$1 ~ "/mode$" && value == "w" { writes[node] = 1 }
		END { for (node in path) if (node in writes) { split(node, part, "/"); print part[7], path[node] } }' |
		while IFS= read -r each; do
			# libxl records the path as configured; either path may be a link.
			[ "${each#* }" -ef "$1" ] || continue
			xenstore-read "/local/domain/${each%% *}/name" 2>/dev/null || echo "${each%% *}"
			break
		done
}

# receive FILE BYTES SHA256 prints how many bytes of the file are in the working folder,
# takes the rest from stdin, and checks the SHA-256 of the whole.
receive() {
	have=0
	[ ! -e "$1" ] || have=$(stat -c %s "$1")
	[ "$have" -le "$2" ] || { # of another transfer
		rm -f "$1"
		have=0
	}
	echo "$have"
	# In pieces with a time limit: a sender that vanished must not keep the lock.
	while [ "$have" -lt "$2" ]; do
		piece=$(($2 - have))
		[ $piece -lt 524288 ] || piece=524288
		timeout 120 dd bs=64k count=$piece iflag=fullblock,count_bytes status=none >>"$1" || fail $CORRUPT "less than 512 KiB of $1 came in two minutes"
		had=$have
		have=$(stat -c %s "$1")
		[ "$have" -gt "$had" ] || fail $CORRUPT "$have of $2 bytes of $1 came" # a later call may send the rest
	done
	sha256sum -c --status <<-END || {
		$3  $1
	END
		rm -f "$1"
		fail $CORRUPT "$1 came with another SHA-256"
	}
}

# publish_image PART IMAGE unpacks the disk and renames PART, which is complete, to IMAGE.
publish_image() {
	if [ -e "$1/disk.tar" ]; then
		rm -rf "$1/unpacked"
		mkdir "$1/unpacked"
		tar -C "$1/unpacked" --no-same-owner --no-same-permissions -xSf "$1/disk.tar"
		mv "$1"/unpacked/* "$1/disk.img"
		rm -rf "$1/unpacked" "$1/disk.tar"
	fi
	sync -f "$1"
	lock_root # verb register looks for either name under this lock
	mv -T "$1" "$2"
	unlock_root
}

# find_tty ID FOLDER sets tty to the terminal of the domain's console, which appears soon.
# QEMU makes that of a serial port, xenconsoled any other.
find_tty() {
	node=console/tty
	while read -r key _; do
		[ "$key" != serial ] || node=serial/0/tty
	done <"$2/domain.cfg"
	n=0
	until tty=$(xenstore-read "/local/domain/$1/$node" 2>/dev/null) && [ -c "$tty" ]; do
		[ $n -lt 50 ] || fail 1 "the domain has no console: does xenconsoled run?"
		n=$((n + 1))
		sleep 0.1
	done
}

# await_change NODE VALUE SECONDS is false if NODE in xenstore has VALUE for so long.
await_change() {
	n=0
	while [ "$(xenstore-read "$1" 2>/dev/null)" = "$2" ]; do
		[ $n -lt "$3" ] || return 1
		n=$((n + 1))
		# xenstore-watch prints a line when it starts and one for each change. A change
		# before its start is seen a second later.
		timeout 1 xenstore-watch -n 2 "$1" >/dev/null 2>&1 || [ $? = 124 ] || sleep 1
	done
}

# kind_of PATH prints block, file, other or missing.
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
