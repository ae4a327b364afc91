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

tty=0
if [ -t 2 ]; then tty=1; fi
{
	status=0
	build || status=$?
	echo "$status" >"$tmp/status"
} | awk -v tty="$tty" '
	function now(  s) { "date +%s" | getline s; close("date +%s"); return s }
	function show(line) {
		if (tty) {
			printf "\r%s", line
			shown = 1
		} else if (now() - last >= 30) {
			print line
			last = now()
		}
		fflush()
	}
	function finish() { if (shown) print ""; shown = 0 }
	BEGIN { last = now() }
	/^go: downloading / { show("devserver: downloaded " ++modules " modules"); next }
	/^total [ 0-9]+$/ { total = $2; finish(); next }
	# A package path. A handful of them is a change to our own code.
	/^[^ \t:]+$/ {
		if (++packages == 20) {
			print "devserver: first build of the embedded Temporal server: about 7 minutes on 2 cores, later ones take seconds"
			last = now()
		}
		if (packages >= 20 && (tty || packages % 10 == 0))
			show("devserver: " packages " of ~" total " packages")
		next
	}
	{ finish(); print; fflush() }
	END { finish() }
' >&2

exit "$(cat "$tmp/status")"
