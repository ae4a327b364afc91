#!/bin/sh
# Deploys examples/hello from source to a machine in QEMU, and destroys it.
set -eu
cd "$(dirname "$0")/.."
morgana=${MORGANA_BIN:-bin}/morgana

run() {
	printf '\n$ morgana %s\n' "$*"
	"$morgana" "$@"
}
run deploy -f examples/hello
run console hello/dev
run status
run destroy hello/dev
printf '\nThe history of it all is in the UI (morgana dev status); morgana dev down stops the server.\n'
