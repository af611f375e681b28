package top

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Model is the live view. It is fed with Answers and keys, and draws the Snapshot
// that they make.
type Model struct {
	state  *State
	now    func() time.Time
	shown  Snapshot
	screen screen
}

// NewModel shows a State, which belongs to it from then on.
func NewModel(state *State, order Order, now func() time.Time) Model {
	return Model{state: state, now: now, shown: state.Snapshot(now()), screen: screen{width: 80, height: 24, order: order}}
}

func (m Model) Init() tea.Cmd { return nil }

func (m Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case Answer:
		m.state.Add(msg)
		m = m.refreshed()
	case tea.WindowSizeMsg:
		m.screen.width, m.screen.height = max(1, msg.Width), max(1, msg.Height)
	case tea.KeyPressMsg:
		var quit bool
		if m, quit = m.key(msg.String()); quit {
			return m, tea.Quit
		}
	}
	m.screen.offset = m.bounded(m.screen.offset)
	return m, nil
}

func (m Model) refreshed() Model {
	if !m.screen.paused {
		m.shown = m.state.Snapshot(m.now())
	}
	return m
}

func (m Model) key(name string) (_ Model, quit bool) {
	sc := &m.screen
	page := max(1, sc.page(m.shown))
	switch name {
	case "q", "ctrl+c":
		return m, true
	case "p":
		sc.order, sc.offset = ByPartition, 0
	case "d":
		sc.order, sc.offset = ByDrift, 0
	case "r":
		sc.order, sc.offset = ByRate, 0
	case "space":
		sc.paused = !sc.paused
		return m.refreshed(), false
	case "?":
		sc.help = !sc.help
	case "esc":
		sc.help = false
	case "j", "down":
		sc.offset++
	case "k", "up":
		sc.offset--
	case "pgdown":
		sc.offset += page
	case "pgup":
		sc.offset -= page
	case "g", "home":
		sc.offset = 0
	case "G", "end":
		sc.offset = len(m.shown.Partitions)
	}
	return m, false
}

// bounded keeps an offset where the screen is full.
func (m Model) bounded(offset int) int {
	return max(0, min(offset, len(m.shown.Partitions)-m.screen.page(m.shown)))
}

func (m Model) View() tea.View {
	v := tea.NewView(strings.Join(m.screen.lines(m.shown), "\n"))
	v.AltScreen = true
	v.WindowTitle = "roomlog top"
	return v
}

// Watch shows the cluster on a terminal until the user quits or ctx ends, which
// is no error. It begins with the first answer; if every node fails before, it
// returns an error that tells what they said. options are for tests.
func Watch(ctx context.Context, p *Poller, order Order, in io.Reader, out io.Writer, options ...tea.ProgramOption) error {
	f := start(ctx, p)
	defer f.close()
	s := NewState(p.Nodes, time.Now())
	if err := f.until(ctx, s, s.answered); err != nil {
		return err
	}
	options = append([]tea.ProgramOption{tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler()}, options...)
	program := tea.NewProgram(NewModel(s, order, time.Now), options...)
	ended := make(chan struct{})
	var forward sync.WaitGroup
	forward.Go(func() {
		for {
			select {
			case a := <-f.answers:
				program.Send(a)
			case <-ctx.Done():
				program.Quit()
				return
			case <-ended:
				return
			}
		}
	})
	_, err := program.Run()
	close(ended)
	forward.Wait()
	if errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// Text is a Snapshot for people, with lines of at most width cells.
func (s Snapshot) Text(width int) string {
	sc := screen{width: width, order: ByPartition}
	return plainText(sc.lines(s))
}
