#!/bin/sh
# mutants.sh BIN DIR [MUTANT...]: builds apiservers with a known mistake, each in a copy of BIN
# below DIR, and has the suite find each. A build tag mutant_NAME makes the mistake; see the
# files *_mutant.go of the apiserver.
set -eu
bin=$1 dir=$2
shift 2
root=$(cd "$(dirname "$0")/../.." && pwd)

# find_mistake NAME FAULTS VIOLATION
find_mistake() {
	echo "mutant: $1"
	rm -rf "${dir:?}/$1"
	mkdir -p "$dir"
	cp -al "$bin" "$dir/$1"
	rm "$dir/$1/apiserver" # a link to the right one
	(cd "$root/apiserver" && go build -tags "mutant_$1" -o "$dir/$1/apiserver" ./cmd/apiserver)
	(cd "$root/test" && KIJABI_BIN="$dir/$1" go run ./faults -duration 10m -session 2m -faults "$2" -expect "$3" -artifacts "$dir/artifacts")
}

[ $# -gt 0 ] || set -- noepoch nocomponentepoch nofsync dropevent
for mutant; do
	case $mutant in
	noepoch) find_mistake noepoch F12/apiserver,F12/machine 'committed under epoch [0-9]+ while [0-9]+ was claimed' ;;
	nocomponentepoch) find_mistake nocomponentepoch F12/apiserver,F12/machine 'write under epoch [0-9]+, which is over, .* acknowledged|started under epoch [0-9]+, was committed in revision' ;;
	nofsync) find_mistake nofsync F6/durable 'no fsync of|before it can have been on the disks' ;;
	dropevent) find_mistake dropevent F2/follower 'events were never shown|shows everything' ;;
	*) echo "no mutant $mutant" >&2; exit 2 ;;
	esac
done
