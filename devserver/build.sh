#!/bin/sh
# Builds the devserver: sh devserver/build.sh OUT
#
# It comes to this line, run in this folder:
#
#	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o OUT .
#
# and shows that it moves, because compiling the Temporal server for the first
# time takes minutes. Go's exit status is this script's.
set -eu

if [ $# -ne 1 ]; then
	echo "usage: sh devserver/build.sh OUT" >&2
	exit 2
fi
case $1 in
/*) out=$1 ;;
*) out=$PWD/$1 ;;
esac
cd "$(dirname "$0")"
mkdir -p "$(dirname "$out")"

# Without C the binary runs on any Linux. Tests and vet use the same settings,
# or Go would compile all of it once more for them.
export CGO_ENABLED=0

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# go list names all packages, after it has downloaded their modules; go build
# -v names each package that it compiles, so none when all is cached. A
# pipeline has no way to hand on go's status but a file.
build() {
	go list -deps . 2>&1 >"$tmp/deps" || return
	echo "total $(wc -l <"$tmp/deps")"
	go build -v -trimpath -ldflags "-s -w" -o "$out" . 2>&1
}

# progress counts packages and modules, and passes on all other lines: they are
# errors. On a terminal it rewrites one line, else it prints one each half minute.
# (A loop, because Debian's awk reads its whole input before the first line.)
progress() {
	packages=0 modules=0 total='?' shown= last=$(date +%s)
	while IFS= read -r line; do
		case $line in
		'go: downloading '*)
			modules=$((modules + 1))
			show "devserver: $modules modules downloaded"
			;;
		'total '*)
			total=$((${line#total }))
			finish
			;;
		*[' :	']* | '')
			finish
			printf '%s\n' "$line"
			;;
		*)
			packages=$((packages + 1))
			# A handful of packages is a change to our own code.
			if [ "$packages" -eq 20 ]; then
				echo "devserver: first build of the embedded Temporal server: about 7 minutes on 2 cores, later ones take seconds"
			fi
			if [ "$packages" -ge 20 ]; then
				show "devserver: $packages of ~$total packages"
			fi
			;;
		esac
	done
	finish
}

show() {
	if [ -t 1 ]; then
		printf '\r%s' "$1"
		shown=yes
	elif now=$(date +%s) && [ $((now - last)) -ge 30 ]; then
		echo "$1"
		last=$now
	fi
}

finish() {
	if [ "$shown" ]; then echo; fi
	shown=
}

{
	status=0
	build || status=$?
	echo "$status" >"$tmp/status"
} | progress >&2

exit "$(cat "$tmp/status")"
