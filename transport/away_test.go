package transport

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Clients have the longer to leave the more there are, within bounds, and are told once.
func TestTimeToLeave(t *testing.T) {
	for _, tt := range []struct {
		clients int
		want    time.Duration
	}{{0, 200 * time.Millisecond}, {20, 200 * time.Millisecond}, {21, 210 * time.Millisecond}, {100, time.Second}, {101, time.Second}} {
		t.Run(fmt.Sprint(tt.clients), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, told, client := telling(t)
				defer s.tasks.Wait()
				defer s.cancel()
				s.cfg.Leave = 200 * time.Millisecond
				for range tt.clients {
					s.join(client("c", false))
				}
				synctest.Wait()
				told.take()
				for range 2 {
					if got := s.SetAway(true); got != tt.want {
						t.Errorf("%v to leave, want %v", got, tt.want)
					}
				}
				synctest.Wait()
				if got := len(told.names); got != tt.clients {
					t.Errorf("%d clients were told", got)
				}
			})
		})
	}
}
