// Package deploy tests `kijabi deploy` as a user runs it: a file, a bundle, and five
// machines that are reached over SSH. The machines are those of `kijabi up --bare`, each
// with OpenSSH's sshd, its own host key and its own /opt.
//
// It runs as root with the programs of $KIJABI_BIN, on a fleet called "ssh".
// KIJABI_E2E_KEEP=1 leaves it at the end; `kijabi down --name ssh` removes it.
package deploy
