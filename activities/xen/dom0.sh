# What a deploy does on the Xen host, one verb a call: ROOT TOOL VERB ARGUMENT... Here
# is what the verbs share; verbs.sh, which comes after, has the verbs.
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
ABSENT=64 FOREIGN=65 REFUSED=66 BUSY=67 CORRUPT=68 NOSPACE=69 NODOM0=70 NOTOOL=71 STAYS=72 ENDED=73 NOTROOT=74 NOSTORE=75 SHARED=76 NOUTIL=77
fail() {
	status=$1
	shift
	echo "$*" >&2
	exit "$status"
}

# domains prints the id and the name of each. It asks xenstore, for xl takes several
# times as long to start.
domains() {
	for try in 1 2 3; do
		ids=$(xenstore-list /local/domain) paths=
		for each in $ids; do paths="$paths /local/domain/$each/name"; done
		# Fails if a domain came or went in between, or one has no name.
		# shellcheck disable=SC2086 # paths of numbers
		if names=$(xenstore-read $paths 2>/dev/null); then
			for each in $ids; do
				IFS= read -r name
				echo "$each $name"
			done <<-END
				$names
			END
			return
		fi
	done
	all=$("$tool" list 2>&1) || fail 1 "$tool list: $all"
	echo "$all" | awk 'NR > 1 { print $2, $1 }'
}

# id_of NAME prints the domain's id, nothing if there is none.
id_of() {
	all=$(domains) || exit
	while read -r each name; do
		[ "$name" != "$1" ] || echo "$each"
	done <<-END
		$all
	END
}

# scrap UUID destroys all domains that have it. It asks Xen itself, through xl: of an xl
# create that was killed there may be a domain without a name, and nothing in xenstore.
# xm has no list -v.
scrap() {
	n=0
	while [ "$tool" = xl ]; do
		all=$("$tool" list -v 2>&1) || fail 1 "$tool list: $all"
		ids=$(echo "$all" | awk -v uuid="$1" '{ for (i = 6; i <= NF; i++) if ($i == uuid) print $(i - 5) }')
		[ -n "$ids" ] || return 0
		[ $n -lt 20 ] || fail $STAYS "$ids"
		for each in $ids; do "$tool" destroy "$each" >/dev/null 2>&1 || :; done
		n=$((n + 1))
		sleep 0.2
	done
}

# quell FOLDER ends an xl create that goes on though the call it was of, and with it
# the lock, is gone: what it makes would be beside what is made now.
quell() {
	for each in $(grep -lzxF "$1/domain.cfg" /proc/[0-9]*/cmdline 2>/dev/null); do
		! grep -qzxF create "$each" 2>/dev/null || {
			each=${each#/proc/}
			kill -9 "${each%/cmdline}" 2>/dev/null || :
		}
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

# state_of ID prints "gone", or "is" and the state as xl list has it: r, b, p, s, c, d.
state_of() {
	"$tool" list "$1" 2>/dev/null | awk 'NR == 2 { gsub("-", "", $5); print "is " $5; n = 1 } END { if (!n) print "gone" }'
}

# lives ID is false for a domain that has ended, even if it was kept for its crash.
lives() {
	case $(state_of "$1") in gone | "is "*[scd]*) return 1 ;; esac
}

# lock FOLDER [SECONDS] is false if it is not there, or not any more.
lock() {
	{ command exec 9<"$1"; } 2>/dev/null || return 1
	flock -w "${2:-60}" 9 || fail $BUSY "$1"
	[ "$1" -ef /proc/self/fd/9 ]
}

# hold locks the root, whatever else is locked. Who holds it locks nothing more.
hold() {
	exec 8<"$root"
	flock -w 60 8 || fail $BUSY "$root"
}

# check_space FOLDER KIB
check_space() {
	free=$(df -Pk "$1" | awk 'END { print $4 }')
	[ "$2" -lt "$free" ] || fail $NOSPACE "$1 has $free KiB free, $2 KiB are needed"
}

# sweep removes the images that no domain uses. Only with the root locked. An image is
# away before it is removed: half of one would be taken for a whole.
sweep() {
	rm -rf "$root"/.gone.*
	for image in "$root"/* "$root"/.*.part; do
		digest=${image##*/}
		digest=${digest#.}
		digest=${digest%.part}
		[ ${#digest} = 64 ] && [ -d "$image" ] || continue
		if ! cat "$root"/domains/*/digest 2>/dev/null | grep -qxF "$digest"; then
			mv -T "$image" "$root/.gone.$digest"
			rm -rf "$root/.gone.$digest"
			echo "image $image"
		fi
	done
}

# backends prints what writer_of reads.
backends() {
	xenstore-ls -f /local/domain/0/backend 2>/dev/null || :
}

# writer_of PATH BACKENDS prints the name of the domain that has it for writing, its id
# if it has none: .../backend/qdisk/DOMAIN/DEVICE/params = "aio:PATH".
writer_of() {
	printf '%s\n' "$2" | awk -F ' = ' '
		{ node = $1; sub("/[^/]*$", "", node); value = substr($0, length($1) + 4); gsub("^\"|\"$", "", value) }
		$1 ~ "/params$" { sub("^[a-z0-9]+:", "", value); path[node] = value }
		$1 ~ "/mode$" && value == "w" { writes[node] = 1 }
		END { for (node in path) if (node in writes) { split(node, part, "/"); print part[7], path[node] } }' |
		while IFS= read -r each; do
			# libxl has it as it was written: either may be a link, or both.
			[ "${each#* }" -ef "$1" ] || continue
			xenstore-read "/local/domain/${each%% *}/name" 2>/dev/null || echo "${each%% *}"
			break
		done
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
		fi
		sync -f "$part"
		rm -rf "$part/unpacked" "$part/disk.tar"
	elif [ ! -e "$part" ]; then
		return
	fi
	hold # reserve looks for the one or the other
	if [ -d "$root/$1" ]; then rm -rf "$part"; else mv -T "$part" "$root/$1"; fi
	exec 8<&-
}

# tty_of ID prints the terminal of the domain's console: that of an hvm domain's serial
# port, made by QEMU, or else the one that xenconsoled makes, soon.
tty_of() {
	n=0
	while [ $n -lt 50 ]; do
		for node in serial/0 console; do
			tty=$(xenstore-read "/local/domain/$1/$node/tty" 2>/dev/null || :)
			[ ! -c "$tty" ] || { echo "$tty"; return; }
		done
		n=$((n + 1))
		sleep 0.1
	done
	fail 1 "the domain has no console: does xenconsoled run?"
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
