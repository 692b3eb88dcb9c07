package packetfilter

import (
	"encoding/binary"
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const subsystem, batchBegin, batchEnd = 10, 16, 17

// answerTimeout bounds waiting for the kernel's answer, which is immediate.
const answerTimeout = 2 // seconds

// message is one change.
type message struct {
	kind       uint16
	family     byte
	flags      uint16
	attributes []*nl.RtAttr
}

// generic begins every message of netfilter: family, version, and the resource id.
type generic [4]byte

var _ nl.NetlinkRequestData = generic{}

func (generic) Len() int { return 4 }

func (g generic) Serialize() []byte { return g[:] }

// encode writes a netlink message.
func encode(kind, flags uint16, sequence uint32, header generic, attributes []*nl.RtAttr) []byte {
	body := header.Serialize()
	for _, attribute := range attributes {
		body = append(body, attribute.Serialize()...)
	}
	whole := make([]byte, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(whole[0:], uint32(len(whole)))
	binary.NativeEndian.PutUint16(whole[4:], kind)
	binary.NativeEndian.PutUint16(whole[6:], flags)
	binary.NativeEndian.PutUint32(whole[8:], sequence)
	copy(whole[unix.NLMSG_HDRLEN:], body)
	return whole
}

// send makes changes in one batch, all or none, and returns the first error.
func send(messages ...message) error {
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := socket.SetReceiveTimeout(&unix.Timeval{Sec: answerTimeout}); err != nil {
		return err
	}
	batch := generic{unix.AF_UNSPEC, 0, 0, subsystem} // the resource id is big endian
	packet := encode(batchBegin, unix.NLM_F_REQUEST, 1, batch, nil)
	for i, m := range messages {
		packet = append(packet, encode(subsystem<<8|m.kind, unix.NLM_F_REQUEST|unix.NLM_F_ACK|m.flags, uint32(i)+2, generic{m.family}, m.attributes)...)
	}
	packet = append(packet, encode(batchEnd, unix.NLM_F_REQUEST, uint32(len(messages))+2, batch, nil)...)
	if err := unix.Sendto(socket.GetFd(), packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for answered := 0; answered < len(messages); {
		answers, _, err := socket.Receive()
		if err != nil {
			return err
		}
		for _, answer := range answers {
			if answer.Header.Type != unix.NLMSG_ERROR || len(answer.Data) < 4 {
				continue
			}
			answered++
			if code := int32(binary.NativeEndian.Uint32(answer.Data)); code != 0 {
				return unix.Errno(-code)
			}
		}
	}
	return nil
}

// dump lists what there is of one sort.
func dump(kind uint16, family byte, query []*nl.RtAttr, each func(family byte, attributes map[uint16][]byte)) error {
	request := nl.NewNetlinkRequest(int(subsystem<<8|kind), unix.NLM_F_DUMP)
	request.AddData(generic{family})
	for _, attribute := range query {
		request.AddData(attribute)
	}
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // it went away meanwhile
	}
	if err != nil {
		return err
	}
	for _, answer := range answers {
		if len(answer) >= 4 {
			each(answer[0], parse(answer[4:]))
		}
	}
	return nil
}
