package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Scene is a crowd that comes all at once and the trouble that comes with it,
// in some rooms, the hit ones. Bystanders are rooms of other partitions with
// other leaders, whose publishers and subscribers have connections of their own:
// the scene is contained if they hardly notice.
//
// A third of the time all is calm, a third is the trouble, a third is for the
// recovery. When messages are due replays a live stream's chat, scaled up.
type Scene struct {
	Name    string
	About   string // what happens to the hit rooms
	Network bool   // it needs a cluster of StartTargetOnNet

	hit      int     // rooms
	region   bool    // all their readers are on the node that leads them
	spread   bool    // they lie in all partitions that the leader of the first leads; or in its alone
	surge    float64 // their rate in the busiest second, to that before; 0: no surge
	readers  int     // of the hit rooms, for each scale
	arrivals int     // newcomers during the trouble, for each scale: each publishes and subscribes
	slow     int     // more readers, for each scale, that come with the trouble and hardly read

	trouble func(*stage, context.Context) error // what else happens; nil: nothing
}

var scenes = []Scene{
	{
		Name: "sports-final", About: "a goal: a hundred times the messages, in one room, within a second; its leader is killed in the middle of it",
		hit: 1, surge: 100, readers: 50, trouble: (*stage).killLeader,
	},
	{
		Name: "product-launch", About: "the doors open: new clients come within seconds, each to publish and to subscribe, while one node after the other is restarted",
		hit: 4, readers: 20, arrivals: 200, trouble: (*stage).restartNodes,
	},
	{
		Name: "viral-moment", About: "everybody shares it: twenty times the messages in many rooms, and a herd of readers that hardly read",
		hit: 32, spread: true, surge: 20, readers: 150, slow: 100,
	},
	{
		Name: "regional-spike", About: "one region wakes up: fifty times the messages in one partition's rooms, and the link of the node where their clients are is slow",
		Network: true, hit: 4, surge: 50, readers: 40, region: true, trouble: (*stage).slowLink,
	},
}

// Scenes are all there are.
func Scenes() []Scene { return slices.Clone(scenes) }

// SceneNamed finds one.
func SceneNamed(name string) (Scene, bool) {
	i := slices.IndexFunc(scenes, func(sc Scene) bool { return sc.Name == name })
	if i < 0 {
		return Scene{}, false
	}
	return scenes[i], true
}

// Conns is how many connections it makes at most: publishers connect to each
// leader of their rooms, beside the node that they know.
func (sc *Scene) Conns(scale float64) int {
	crowd := float64(sc.readers+sc.slow+2*sc.arrivals) * scale
	return int(crowd) + sc.hit + bystanderRooms*bystanderReaders + 3*3
}

const (
	bystanderRooms   = 8
	bystanderReaders = 2   // of each
	hitShare         = 0.1 // of the rate before the trouble
)

// LeastScene is the shortest time in which a scene can be measured.
const LeastScene = 6 * time.Second

// RunScene plays a scene for d and measures how late messages are in the hit
// rooms and elsewhere. s.Rate is the messages a second before the trouble, in all
// rooms together; scale multiplies the crowd of the hit rooms.
func RunScene(ctx context.Context, t *Target, s Settings, sc Scene, scale float64, d time.Duration, progress Progress) (*SceneReport, error) {
	switch {
	case !t.Local():
		return nil, errors.New("nodes are made to fail: that needs a cluster of its own")
	case sc.Network && t.net == nil:
		return nil, errors.New("a link is made slow: that needs a cluster on a network of its own")
	case t.Partitions() < len(t.nodes):
		return nil, fmt.Errorf("bystanders are in partitions with other leaders: that needs %d partitions", len(t.nodes))
	}
	g := newStage(t, s, sc, scale, d)
	defer g.close()
	return g.play(ctx, progress)
}

// times are when what happens, on the stage's clock.
type times struct {
	began   time.Duration // messages are due from here on
	counted window
	trouble window
}

// timesOf lays a scene of length d out.
func timesOf(began, d time.Duration) times {
	third := (d / 3).Truncate(time.Second)
	from := began + warmUp(d)
	return times{
		began:   began,
		counted: window{from, from + d.Truncate(time.Second)},
		trouble: window{from + third, from + 2*third},
	}
}

// before is the calm.
func (w times) before() window { return window{w.counted.from, w.trouble.from} }

// end is the last third of the recovery.
func (w times) end() window {
	return window{w.counted.to - (w.counted.to-w.trouble.to)/3, w.counted.to}
}

// seconds is how many there are from one moment to another.
func seconds(from, to time.Duration) int { return int((to - from) / time.Second) }

// calmRates are the messages of each second in a part that nothing happens to,
// mean a second.
func (w times) calmRates(c chat, rooms int, mean float64) []float64 {
	return c.calm(seconds(w.began, w.counted.to), rooms, mean)
}

// surgeRates are those of one in which there are so many times as many in the
// busiest second of the trouble.
func (w times) surgeRates(c chat, rooms int, mean, surge float64) []float64 {
	rates := w.calmRates(c, rooms, mean)
	copy(rates[seconds(w.began, w.trouble.from):], c.surge(seconds(w.trouble.from, w.trouble.to), mean*surge))
	return rates
}
