package loops

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"kijabi.dev/platform/kube/object"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// said is one message of a watch, or its end.
type said struct {
	message frame
	err     error
	at      time.Time
}

// watch passes a watch on, late or with states left out. Initial objects come as they are.
func (p *proxy) watch(in grpc.ServerStream, out grpc.ClientStream) error {
	var request frame
	if err := in.RecvMsg(&request); err != nil {
		return err
	}
	asked := &objectv1pb.WatchRequest{}
	if err := proto.Unmarshal(request, asked); err != nil {
		return err
	}
	if err := errors.Join(out.SendMsg(&request), out.CloseSend()); err != nil {
		return err
	}
	heard := make(chan said, 1<<14) // more than a test says in a window
	go func() {
		for {
			var f frame
			err := out.RecvMsg(&f)
			select {
			case heard <- said{f, err, time.Now()}:
			case <-in.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	initial := asked.GetSendInitialEvents()
	for next := range heard {
		if next.err != nil {
			return orderly(next.err)
		}
		p.mu.Lock()
		now := p.now
		p.mu.Unlock()
		messages := []frame{next.message}
		if !initial {
			lag, named := now.lag[asked.GetResource().GetResource()]
			if !named {
				lag = now.lag["*"]
			}
			if !sleep(in.Context(), time.Until(next.at.Add(lag))) {
				return in.Context().Err()
			}
			if now.window > 0 {
				if !sleep(in.Context(), now.window) {
					return in.Context().Err()
				}
				for len(heard) > 0 {
					if next = <-heard; next.err != nil {
						break
					}
					messages = append(messages, next.message)
				}
			}
		}
		merged, end, err := newest(messages)
		if err != nil {
			return err
		}
		initial = initial && !end
		if err := in.SendMsg(&merged); err != nil {
			return err
		}
		if next.err != nil {
			return orderly(next.err)
		}
	}
	return nil
}

// sleep returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// newest makes one message of several: of each object the last state, and nothing of one that
// came and went. It says also whether the initial objects end with it.
func newest(messages []frame) (frame, bool, error) {
	merged := &objectv1pb.WatchResponse{}
	var order []object.Key
	last, came := map[object.Key]*objectv1pb.WatchEvent{}, map[object.Key]bool{}
	for _, f := range messages {
		m := &objectv1pb.WatchResponse{}
		if err := proto.Unmarshal(f, m); err != nil {
			return nil, false, err
		}
		if len(messages) == 1 {
			return f, m.GetInitialEventsEnd(), nil
		}
		merged.InitialEventsEnd = merged.GetInitialEventsEnd() || m.GetInitialEventsEnd()
		if m.GetProgress() != "" {
			merged.Progress = m.GetProgress()
		}
		for _, event := range m.GetEvents() {
			obj, err := object.Unpack(event.GetObject())
			if err != nil {
				return nil, false, err
			}
			key := object.KeyOf(obj)
			if last[key] == nil {
				came[key] = event.GetType() == objectv1pb.EventType_EVENT_TYPE_ADDED
				order = append(order, key)
			}
			last[key] = event
		}
	}
	for _, key := range order {
		if event := last[key]; !came[key] || event.GetType() != objectv1pb.EventType_EVENT_TYPE_DELETED {
			merged.Events = append(merged.Events, event)
		}
	}
	merged.Events = slices.Clip(merged.Events)
	f, err := proto.Marshal(merged)
	return f, merged.GetInitialEventsEnd(), err
}
