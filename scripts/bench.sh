#!/bin/sh
# bench.sh TOOLS [BENCHMARK...] runs the benchmarks and prints benchstat's summary. The
# output of the benchmarks stays in TOOLS/bench for a comparison with a later run. The
# benchmark Xen needs the lab of xenlab/README.md and is skipped without it.
set -eu
cd "$(dirname "$0")/.."
tools=$1
shift
export MORGANA_BIN="${MORGANA_BIN:-$PWD/bin}"
: >"$tools/bench"
# measure BENCHMARK SAMPLES RUNS PACKAGE
measure() {
	go test -run '^$' -bench "^Benchmark$1\$" -count "$2" -benchtime "$3" -timeout 60m "$4" >"$tools/bench.part" ||
		{ cat "$tools/bench.part" >&2; exit 1; }
	cat "$tools/bench.part" >>"$tools/bench"
}
for part in ${*:-Deploy Watch Boot Image ImageMemory Put Upload Backings Import Carrier XenServer Xen}; do
	echo "bench: $part" >&2
	case $part in
	Put) measure 'Put(Again)?' 6 3x ./store ;;
	Import) measure "$part" 5 1x ./activities/xenserver ;;
	Upload) measure "$part" 5 1x ./activities/ec2 ;;
	Backings) measure "$part" 3 1x ./activities/ec2 ;;
	Deploy) measure "$part" 4 1x ./bench ;;
	Watch) measure "$part" 1 1x ./bench ;;
	Boot) measure "$part" 15 1x ./bench ;;
	Carrier | XenServer | Xen) measure "$part" 3 1x ./bench ;;
	*) measure "$part" 6 1x ./bench ;;
	esac
done
exec "$tools/benchstat" "$tools/bench"
