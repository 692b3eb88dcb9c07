package install

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// deleteTable removes an nftables table of either family; one that does not exist is no
// error. It speaks to the kernel itself: a library for one message is not worth it.
func deleteTable(name string) error {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_INET} {
		if err := sendDeleteTable(family, name); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove packet filter table %s: %w", name, err)
		}
	}
	return nil
}

// sendDeleteTable sends a batch of one message.
func sendDeleteTable(family byte, name string) error {
	const nfnlSubsysNFTables, msgBatchBegin, msgBatchEnd, msgDelTable, attrTableName = 10, 16, 17, 2, 1
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer socket.Close()
	message := func(kind uint16, flags uint16, sequence uint32, generic [4]byte, payload []byte) []byte {
		body := append(generic[:], payload...)
		whole := make([]byte, unix.NLMSG_HDRLEN+len(body))
		binary.NativeEndian.PutUint32(whole[0:], uint32(len(whole)))
		binary.NativeEndian.PutUint16(whole[4:], kind)
		binary.NativeEndian.PutUint16(whole[6:], flags)
		binary.NativeEndian.PutUint32(whole[8:], sequence)
		copy(whole[unix.NLMSG_HDRLEN:], body)
		return whole
	}
	batch := [4]byte{unix.AF_UNSPEC, 0, 0, nfnlSubsysNFTables} // resource id, big endian
	packet := message(msgBatchBegin, unix.NLM_F_REQUEST, 1, batch, nil)
	attribute := nl.NewRtAttr(attrTableName, nl.ZeroTerminated(name)).Serialize()
	packet = append(packet, message(nfnlSubsysNFTables<<8|msgDelTable, unix.NLM_F_REQUEST|unix.NLM_F_ACK, 2, [4]byte{family}, attribute)...)
	packet = append(packet, message(msgBatchEnd, unix.NLM_F_REQUEST, 3, batch, nil)...)
	if err := unix.Sendto(socket.GetFd(), packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answers, _, err := socket.Receive()
	if err != nil {
		return err
	}
	for _, answer := range answers {
		if answer.Header.Type == unix.NLMSG_ERROR && len(answer.Data) >= 4 {
			if code := int32(binary.NativeEndian.Uint32(answer.Data)); code != 0 {
				return unix.Errno(-code)
			}
		}
	}
	return nil
}
