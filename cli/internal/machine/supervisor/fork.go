package supervisor

import (
	"os"
	"syscall"
)

// forkExec is syscall.ForkExec with the standard streams set, and descriptors
// after them. os.StartProcess is not
// used because its process handle waits by itself, which a reaper of all children
// would race with.
func forkExec(argv, env []string, attr *syscall.SysProcAttr, in, out *os.File, descriptors []stored) (int, error) {
	files := []uintptr{in.Fd(), out.Fd(), out.Fd()}
	for _, d := range descriptors {
		files = append(files, uintptr(d.fd))
	}
	return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Sys: attr,
		Files: files,
	})
}
