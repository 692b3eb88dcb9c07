#!/bin/sh
# Builds unmodified clients of Kubernetes, each pinned by the go.mod in the folder of its
# name, into OUTDIR. A program is built when it is missing or older than its module.
set -eu

if [ $# -lt 2 ]; then
	echo "usage: $0 OUTDIR PROGRAM..." >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")"

export GOWORK=off CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath -mod=readonly'

for program in "$@"; do
	flags='-s -w' tags=''
	case $program in
	kubectl) module=../../kubectl package=. ;;
	kubectl-previous) module=kubectl-previous package=. ;;
	helm3) module=helm3 package=helm.sh/helm/v3/cmd/helm ;;
	helm4) module=helm4 package=helm.sh/helm/v4/cmd/helm ;;
	kwok) module=kwok package=sigs.k8s.io/kwok/cmd/kwok ;;
	coredns) module=coredns package=github.com/coredns/coredns ;;
	# Of the service discoveries only that of Kubernetes; the others are SDKs of clouds.
	prometheus) module=prometheus package=github.com/prometheus/prometheus/cmd/prometheus tags=remove_all_sd,enable_kubernetes_sd ;;
	*) echo "error: no program '$program'; there are: kubectl kubectl-previous helm3 helm4 kwok coredns prometheus" >&2; exit 2 ;;
	esac
	(
		cd "$module"
		if [ -x "$out/$program" ] && [ ! go.mod -nt "$out/$program" ] && [ ! go.sum -nt "$out/$program" ]; then
			exit 0
		fi
		# kubectl's version cannot be set in Go.
		version=$(sed -n 's|^[[:space:]]*k8s.io/kubectl \(v[^ ]*\).*|\1|p' go.mod | sed 's/^v0/v1/')
		case $program in kubectl*) flags="$flags -X k8s.io/component-base/version.gitVersion=$version" ;; esac
		echo "clients: building $program"
		# Renamed when done: an interrupted build leaves no torn file.
		go build -tags "$tags" -ldflags "$flags" -o "$out/$program.new" "$package"
		touch "$out/$program.new" # a cached build must still count as newer than go.sum
		mv "$out/$program.new" "$out/$program"
		if [ "$program" = kwok ]; then # the stages that its own image has
			stages=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
			mkdir -p "$out/kwok-stages"
			cp -f "$stages"/node/fast/node-*.yaml "$stages"/node/heartbeat-with-lease/node-*.yaml "$stages"/pod/fast/pod-*.yaml "$out/kwok-stages/"
			chmod u+w "$out/kwok-stages"/*
		fi
	)
done
