#!/bin/bash
# Checks a checkout: format, vet, staticcheck, tests, real processes under faults,
# tests under the race detector, and the tests that need other programs
# (deploy/compat, deploy/peers, deploy/wycheproof), where they are there. Runs on a clean checkout and changes nothing in it.
#
#   deploy/ci/check.sh            all steps
#   deploy/ci/check.sh vet race   only these
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
# What README.md says is how to test.
readme_test='go test ./...'

format() {
	local bad
	bad=$(find . -name node_modules -prune -o -name '*.go' -print0 | xargs -0 gofmt -l) || return 1
	[ -z "$bad" ] && return
	printf 'not formatted (run gofmt -w):\n%s\n' "$bad"
	return 1
}

vet() { go vet ./...; }

static() { go run "$staticcheck" ./...; }

tests() {
	if ! grep -qF -- "$readme_test" README.md; then
		echo "README.md does not name the test command: $readme_test"
		return 1
	fi
	$readme_test
}

# Real processes under faults (deploy/fleet), with nothing beside them.
processes() { go test -count=1 ./deploy/fleet -alone; }

race() {
	if ! command -v "$(go env CC)" >/dev/null; then
		echo "the race detector needs a C compiler: install $(go env CC), such as by apt-get install gcc libc6-dev"
		return 1
	fi
	# Most packages wait for most of their time, so two leave room for a third: node, whose
	# run is the longest, begins earlier.
	CGO_ENABLED=1 go test -race -p 3 -timeout 30m ./...
}

# The protocol itself, apart from the code: every rule kept holds, every rule
# broken is caught.
model() { (cd deploy/model/gosim && go test -short ./...); }

# The parser of JWTs against the vectors of Project Wycheproof and the list of
# attacks. The vectors are 109 MB (26 MB to download), and no part of the product.
vectors() {
	if ! (cd deploy/wycheproof && go mod download); then
		echo "SKIPPED: vectors: NOT TESTED on this machine: the modules of deploy/wycheproof cannot be downloaded"
		return
	fi
	(cd deploy/wycheproof && go vet ./... && go test -count=1 -v ./...)
}

compat() {
	if [ ! -x deploy/compat/run ]; then
		echo "no deploy/compat/run: nothing to do"
		return
	fi
	deploy/compat/run
}

# What bench --peers measures beside a node: that each peer serves, and leaves
# nothing behind. Its libraries are no part of the product, so a machine that
# cannot get them is none the worse.
peers() {
	if ! (cd deploy/peers && go mod download); then
		echo "SKIPPED: peers: NOT TESTED on this machine: the modules of deploy/peers cannot be downloaded"
		return
	fi
	(cd deploy/peers && go vet ./... && go test -count=1 -v ./...)
}

steps=(format vet static vectors model tests processes race compat peers)
chosen=("$@")
[ $# -eq 0 ] && chosen=("${steps[@]}")
for step in "${chosen[@]}"; do
	if [[ " ${steps[*]} " != *" $step "* ]]; then
		echo "check: no step $step; there are: ${steps[*]}" >&2
		exit 2
	fi
done
for step in "${chosen[@]}"; do
	echo "== $step"
	begun=$SECONDS
	if ! "$step"; then
		echo "== FAILED: $step after $((SECONDS - begun)) s" >&2
		exit 1
	fi
	echo "== $step: ok, $((SECONDS - begun)) s"
done
echo "== all ok, $SECONDS s"
