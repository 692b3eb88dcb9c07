// Package nodetest holds tests that run pods with a real containerd, in namespaces
// of their own: nothing of them is left on the machine, however they end.
package nodetest
