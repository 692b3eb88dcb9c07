package preflight

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kijabi.dev/cli/internal/packetfilter"
)

// localKernel is the running kernel.
type localKernel struct{}

var _ Kernel = localKernel{}

func (localKernel) Probe(wanted Feature) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "probe0"
	switch wanted {
	case Namespaces:
		return throwAway(unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWNET|unix.CLONE_NEWCGROUP, nil)
	case NFTables:
		return throwAway(unix.CLONE_NEWNET, probePacketFilter)
	case Bridge:
		return probeLink(&netlink.Bridge{LinkAttrs: attributes})
	case Veth:
		return probeLink(&netlink.Veth{LinkAttrs: attributes, PeerName: "probe1"})
	case VXLAN:
		return probeLink(&netlink.Vxlan{LinkAttrs: attributes, VxlanId: 1, Port: 8472})
	case Seccomp:
		return probeSeccomp()
	}
	return fmt.Errorf("no probe for %s", wanted)
}

func (localKernel) Synchronised() (bool, error) {
	var state unix.Timex
	_, err := unix.Adjtimex(&state) // modes are 0: it only reads
	return state.Status&unix.STA_UNSYNC == 0, err
}

// throwAway runs probe in new namespaces, on a thread that ends afterwards and takes
// them with it.
func throwAway(namespaces int, probe func() error) error {
	result := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() == os.Getpid() {
			// The main thread cannot end, and /proc/self is its. While it is locked here another thread is used.
			done := make(chan struct{})
			//nolint:forbidigo // waited for
			go func() { defer close(done); run() }()
			<-done
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Unshare(namespaces); err != nil {
			result <- fmt.Errorf("make namespaces: %w", err)
			return
		}
		if probe == nil {
			result <- nil
			return
		}
		result <- probe()
	}
	go run() //nolint:forbidigo // waited for
	return <-result
}

// probeLink makes a network interface where nobody sees it.
func probeLink(link netlink.Link) error {
	return throwAway(unix.CLONE_NEWNET, func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer handle.Close()
		if err := handle.LinkAdd(link); err != nil {
			return fmt.Errorf("make a %s interface: %w", link.Type(), err)
		}
		return handle.LinkDel(link)
	})
}

func probePacketFilter() error {
	missing, err := packetfilter.Probe()
	if err != nil {
		return err
	}
	var texts []string
	for name, err := range missing {
		texts = append(texts, fmt.Sprintf("%s: %v", name, err))
	}
	if len(texts) > 0 {
		slices.Sort(texts)
		return errors.New(strings.Join(texts, ", "))
	}
	return nil
}

// probeSeccomp asks for the action that container profiles use; the kernel only answers.
func probeSeccomp() error {
	const getActionAvailable = 2 // SECCOMP_GET_ACTION_AVAIL
	action := uint32(0x00050000) // SECCOMP_RET_ERRNO
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvailable, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return errno
	}
	return nil
}
