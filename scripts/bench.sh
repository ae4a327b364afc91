#!/bin/sh
# Figures and ratios; see bench/main.go. Arguments go to the program: --json, --only boot.
# Part xen wants the lab of xenlab/README.md, which takes root to build the first time;
# where it cannot be had, that part is left out.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .bin
# Not "go run", which does not hand on signals.
go build -o .bin/bench ./bench
exec .bin/bench "$@"
