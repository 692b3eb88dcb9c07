#!/bin/bash
# Runs as root in the virtual machine, once after each boot. It installs Kijabi from the
# archive in /payload, as a person would, and looks whether it behaves. What it finds
# goes to the second serial port, a line each: "ok ...", "FAIL ...", "log ...", "END".
set -u
port=/dev/ttyS1
state=/var/lib/vm-test
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root KIJABI_PROGRESS=
mkdir -p "$state"

say() { printf '%s\n' "$*" >"$port"; }

# log prints a command's output.
log() { "$@" 2>&1 | sed 's/^/log /' >"$port"; }

end() {
	say END
	systemctl --no-block poweroff
	exit
}

fail() {
	say "FAIL $*"
	log systemctl --no-pager list-units --all 'kijabi-*'
	log journalctl --no-pager -b -n 150 -u 'kijabi-*'
	log dmesg --level=err,warn
	end
}

# step NAME COMMAND...: it must succeed.
step() {
	local name=$1 begun=$SECONDS output
	shift
	output=$("$@" 2>&1) || fail "$name: $output"
	say "ok $name ($((SECONDS - begun)) s)"
}

# within SECONDS COMMAND...: it must succeed some time.
within() {
	local limit=$((SECONDS + $1)) output
	shift
	until output=$("$@" 2>&1); do
		if [ $SECONDS -ge $limit ]; then
			echo "not within the time: $output"
			return 1
		fi
		sleep 1
	done
}

unpack() {
	tar -C /opt -xf /payload/kijabi.tar.gz &&
		ln -s /opt/kijabi-*/bin/kijabi /usr/local/bin/kijabi &&
		kijabi bundle verify /payload/kijabi.tar.gz --key /payload/kijabi.pub
}

# Every unit of ours runs, and there are as many as a master has.
units_active() {
	local all
	all=$(systemctl list-units --all --plain --no-legend 'kijabi-*.service') || return
	[ "$(printf '%s\n' "$all" | grep -c ' loaded active running ')" -ge 10 ] &&
		! printf '%s\n' "$all" | grep -v ' loaded active running ' || { printf '%s\n' "$all"; return 1; }
}

node_ready() { kijabi kubectl wait --for=condition=Ready "node/$(hostname)" --timeout=5s; }

pod_answers() { [ "$(kijabi kubectl exec toolbox -- /toolbox echo alive)" = alive ]; }

start_pod() {
	kijabi kubectl apply -f - <<-YAML || return
		apiVersion: v1
		kind: Pod
		metadata: {name: toolbox}
		spec:
		  tolerations: [{operator: Exists}]
		  containers:
		    - {name: toolbox, image: "registry.kijabi.dev/toolbox:1", imagePullPolicy: IfNotPresent}
	YAML
	within 900 pod_answers
}

# pod_process prints process and start time of the pod's container.
pod_process() {
	local pid
	for pid in $(pgrep -x toolbox); do
		echo "$pid $(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f20)"
		return
	done
	return 1
}

restart_node_programs() {
	local before after
	before=$(pod_process) || { echo "no process of the pod"; return 1; }
	systemctl restart kijabi-kubelet kijabi-containerd || return
	within 600 units_active && within 600 node_ready && within 600 pod_answers || return
	after=$(pod_process) || { echo "the pod's process is gone"; return 1; }
	[ "$before" = "$after" ] || { echo "the pod's process was '$before', is '$after'"; return 1; }
	[ "$(kijabi kubectl get pod toolbox -o 'jsonpath={.status.containerStatuses[0].restartCount}')" = 0 ] ||
		{ echo "the container was restarted"; return 1; }
}

# The support bundle has what systemd keeps of each program.
support_bundle() {
	local logs
	kijabi support-bundle --file "$state/support.tar.gz" || return
	logs=$(tar -xzOf "$state/support.tar.gz" --wildcards '*/logs/kijabi-kubelet.log') || return
	rm "$state/support.tar.gz"
	printf '%s\n' "$logs" | grep -q '"component":"kubelet"' || { printf 'no line of the kubelet among: %s\n' "${logs:0:500}"; return 1; }
}

# look prints all that an installation could leave, a line each.
look() {
	find / -xdev \( -path /opt/kijabi-\* -o -path /var/log -o -path /var/lib/systemd -o -path /var/lib/vm-test \
		-o -path /tmp -o -path /var/tmp -o -path /root/.kube -o -path /usr/local/bin/kijabi \) -prune -o -print
	find /run -xdev -path '*kijabi*' -o -path '*containerd*' -o -path '*netns*' -o -path '*runc*' | sed 's/^/run /'
	findmnt -rno TARGET | grep -v '^/run/credentials/' | sed 's/^/mount /'
	ip -o link | awk -F': ' '{ sub("@.*", "", $2); print "link " $2 }'
	ip route | sed 's/^/route /; s/ *$//'
	nft list tables | sed 's/^/nft /'
	find /sys/fs/cgroup -type d | grep -e kijabi -e kubepods -e '/pod' | sed 's/^/cgroup /'
	readlink /proc/[0-9]*/exe | grep /opt/ | sed 's/^/process /'
	systemctl list-unit-files --plain --no-legend 'kijabi*' | sed 's/^/unit /'
}

reset_leaves_nothing() {
	kijabi reset || return
	look | sort -u >"$state/after"
	# Directories that hold nothing but what the system made meanwhile do not count.
	if comm -13 "$state/before" "$state/after" | grep .; then
		return 1
	fi
}

if [ ! -e "$state/rebooted" ]; then
	say "ok boot: $(uname -r), $(systemctl --version | head -n 1)"
	look | sort -u >"$state/before"
	step "unpack and verify the archive" unpack
	step "kijabi master init" kijabi master init --timeout 30m
	step "all units are active" within 600 units_active
	step "the node is Ready" within 600 node_ready
	step "a pod runs" start_pod
	step "the pod outlives a restart of kubelet and containerd" restart_node_programs
	step "the support bundle holds the journal" support_bundle
	log kijabi status
	touch "$state/rebooted"
	sync
	say "ok reboot"
	systemctl --no-block reboot
	exit
fi
say "ok boot again"
step "all units are active after the reboot" within 1200 units_active
step "the node is Ready after the reboot" within 1200 node_ready
step "the pod runs after the reboot" within 1200 pod_answers
step "kijabi reset leaves nothing" reset_leaves_nothing
end
