package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

// maxRooms is what one answer of a node may hold.
const maxRooms = 100_000

func newRoom(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "room", Short: "Look at rooms"}
	cmd.AddCommand(newRoomShow(a), newRoomList(a))
	return cmd
}

func newRoomShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show ROOM",
		Short: "Show one room",
		Long: `Show a room: its oldest and newest seq, its partition, and how its subscribers
fare. Drift is how late they get messages, spread how unevenly. A room that was
never used has first 1 and last 0. While the room's partition has no leader a
warning says so: what nodes know by themselves may be out of date.`,
		Args: oneArg("ROOM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wire.CheckRoom(args[0]); err != nil {
				return usageError{err}
			}
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			answers, err := askAll[admin.RoomStatus](cmd.Context(), c, "/v1/room?name="+url.QueryEscape(args[0]))
			if err != nil {
				return err
			}
			var v roomView
			for _, answer := range answers {
				if answer.err == nil {
					v.merge(answer.value)
				}
			}
			partitions, err := c.partitions(cmd.Context())
			if err != nil {
				return err
			}
			v.led = slices.ContainsFunc(partitions, func(p partitionView) bool { return p.Partition == v.Partition && p.led() })
			if !v.led {
				a.warn("no leader: this may be out of date")
			}
			return a.emit(v, v.text)
		},
	}
}

func newRoomList(a *app) *cobra.Command {
	var top string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List rooms by name, or those with the most of something",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, ok := roomOrders[top]; !ok {
				return usagef("--top %q: use drift, rate or subscribers", top)
			}
			if limit < 1 || limit > maxRooms {
				return usagef("--limit %d: use 1 to %d", limit, maxRooms)
			}
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			views, err := listRooms(cmd.Context(), c, top, limit)
			if err != nil {
				return err
			}
			if err := a.warnLeaderless(cmd.Context(), c); err != nil {
				return err
			}
			header := []string{"ROOM", "FIRST", "LAST", "PARTITION", "DRIFT", "SPREAD", "SUBSCRIBERS", "RATE"}
			return emitTable(a, views, header, roomView.row)
		},
	}
	cmd.Flags().StringVar(&top, "top", "", "those with most `drift|rate|subscribers` first")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many")
	return cmd
}

// warnLeaderless says that rooms may be missing if a partition has no leader.
func (a *app) warnLeaderless(ctx context.Context, c *cluster) error {
	partitions, err := c.partitions(ctx)
	if err != nil {
		return err
	}
	without := 0
	for _, p := range partitions {
		if !p.led() {
			without++
		}
	}
	if without > 0 {
		a.warn(fmt.Sprintf("%d of %s without a leader: this may be out of date", without, plural(len(partitions), "partition")))
	}
	return nil
}

// roomView is a line of "room show" and "room list".
type roomView struct {
	Room        string  `json:"room"`
	First       uint64  `json:"first"`
	Last        uint64  `json:"last"`
	Partition   int     `json:"partition"`
	Drift       float64 `json:"drift"`
	Spread      float64 `json:"spread"`
	Subscribers int     `json:"subscribers"`
	Rate        float64 `json:"rate"` // messages a second

	led bool // the leader of its partition has answered; only "room show" asks
}

// merge adds one node's view. The replica with the most messages, as a rule the
// leader's, tells first and last; the worst-off subscribers tell drift and spread.
func (v *roomView) merge(s admin.RoomStatus) {
	if v.Room == "" || s.Last > v.Last {
		v.Room, v.Partition, v.First, v.Last = s.Room, s.Partition, s.First, s.Last
	}
	v.Drift = max(v.Drift, s.Drift)
	v.Spread = max(v.Spread, s.Spread)
	v.Subscribers += s.Subscribers
	v.Rate = max(v.Rate, s.Rate)
}

func (v roomView) text(w io.Writer) {
	fmt.Fprintf(w, "room         %s\n", v.Room)
	fmt.Fprintf(w, "partition    %d\n", v.Partition)
	switch {
	case v.Last > 0:
		fmt.Fprintf(w, "messages     %d to %d\n", v.First, v.Last)
	case v.led:
		fmt.Fprintf(w, "messages     none yet\n")
	default:
		fmt.Fprintf(w, "messages     none known\n")
	}
	fmt.Fprintf(w, "rate         %.1f/s\n", v.Rate)
	fmt.Fprintf(w, "subscribers  %d\n", v.Subscribers)
	fmt.Fprintf(w, "drift        %s\n", millis(v.Drift))
	fmt.Fprintf(w, "spread       %s\n", millis(v.Spread))
}

func (v roomView) row() []any {
	return []any{v.Room, v.First, v.Last, v.Partition, millis(v.Drift), millis(v.Spread), v.Subscribers, fmt.Sprintf("%.1f/s", v.Rate)}
}

func millis(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + " ms" }

// roomOrders are the measures of --top; "" is by name.
var roomOrders = map[string]func(roomView) float64{
	"":            func(roomView) float64 { return 0 },
	"drift":       func(v roomView) float64 { return v.Drift },
	"rate":        func(v roomView) float64 { return v.Rate },
	"subscribers": func(v roomView) float64 { return float64(v.Subscribers) },
}

// listRooms merges every node's list. A room may be high on the list only when
// all nodes are summed, so with --top nodes are asked for more than is shown.
func listRooms(ctx context.Context, c *cluster, top string, limit int) ([]roomView, error) {
	ask := limit
	if top != "" {
		ask = min(10*limit+1000, maxRooms)
	}
	query := url.Values{"order": {top}, "limit": {strconv.Itoa(ask)}}
	answers, err := askAll[[]admin.RoomStatus](ctx, c, "/v1/rooms?"+query.Encode())
	if err != nil {
		return nil, err
	}
	rooms := map[string]*roomView{}
	for _, answer := range answers {
		for _, s := range answer.value { // none if the node did not answer
			if rooms[s.Room] == nil {
				rooms[s.Room] = &roomView{}
			}
			rooms[s.Room].merge(s)
		}
	}
	measure := roomOrders[top]
	views := make([]roomView, 0, len(rooms))
	for _, v := range rooms {
		views = append(views, *v)
	}
	slices.SortFunc(views, func(a, b roomView) int {
		return cmp.Or(cmp.Compare(measure(b), measure(a)), strings.Compare(a.Room, b.Room))
	})
	return views[:min(limit, len(views))], nil
}
