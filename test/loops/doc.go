// Package loops tests the controller-manager, the cloud-controller-manager and the
// scheduler against a real apiserver: the programs of $KIJABI_BIN run as processes of the test on a loopback
// address of their own, without root, containers or namespaces. Kubelets are hollow:
// the test keeps their heartbeats and posts what they would post.
package loops
