package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = ""

// app is what every command shares: its streams and the flags that all have.
// The fields are set when a command's RunE is entered, not before.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	output  string        // "text" or "json"
	profile string        // path of a profile file
	servers []string      // override the profile's
	ca      string        // overrides the profile's
	token   string        // overrides the profile's
	timeout time.Duration // how long a command waits without progress

	given func(flag string) bool // whether the user gave a flag that all commands have
	learn learner                // how operators' commands learn the nodes
}

// usageError is a mistake in how the command was called: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// newRoot builds the command tree. Streams are those of the command
// (SetIn, SetOut, SetErr), which are the process's own unless a test sets them.
func newRoot() *cobra.Command { return newRootOf(&app{learn: learnQUIC}) }

func newRootOf(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "roomlog",
		Short: "Ordered message log server for live rooms",
		Long: `roomlog keeps an ordered log of messages per room, replicated over a cluster
of nodes, and delivers it over QUIC.

To try it: "roomlog dev" starts a cluster on this machine and prints the path of
a profile; "roomlog --profile PATH publish ROOM" and "roomlog --profile PATH
subscribe ROOM" then talk to it.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       buildVersion(),
	}
	root.SetVersionTemplate("roomlog {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "text", "output format: text or json (one object a line)")
	flags.StringVar(&a.profile, "profile", "", "file that names servers, CA and token (default $ROOMLOG_PROFILE)")
	flags.StringSliceVar(&a.servers, "server", nil, "server to connect to, host:port; repeatable (default $ROOMLOG_SERVER, else the profile's)")
	flags.StringVar(&a.ca, "ca", "", "PEM file with the servers' CA (default $ROOMLOG_CA, else the profile's)")
	flags.StringVar(&a.token, "token", "", "token shown to the servers (default $ROOMLOG_TOKEN, else the profile's)")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "give up after this long without progress")
	a.given = flags.Changed

	root.AddCommand(
		newPublish(a), newSubscribe(a), newReplay(a),
		newRoom(a), newPartition(a), newNode(a), newTop(a), newBench(a),
	)
	for _, local := range []*cobra.Command{newServe(a), newDev(a), newVerify(a), newChaos(a), newCerts(a), newConfig(a), newVersion(a)} {
		root.AddCommand(local)
		local.SetHelpFunc(helpWithoutServers)
	}
	root.SetFlagErrorFunc(flagError)
	a.adopt(root)
	return root
}

// helpWithoutServers leaves out the flags that say how to reach a cluster, for
// commands that reach none.
func helpWithoutServers(cmd *cobra.Command, args []string) {
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = f.Name != "output" })
	cmd.Root().HelpFunc()(cmd, args)
}

// adopt makes a command and those below it run with a filled app, and their
// wrong arguments usage errors. A command without RunE is a group: called
// without one of its commands, or with an unknown one, that is wrong usage.
func (a *app) adopt(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		a.adopt(sub)
	}
	if cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = missingCommand
		return
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef("%w: use %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if a.output != "text" && a.output != "json" {
			return usagef("--output %q: use text or json", a.output)
		}
		if a.timeout <= 0 {
			return usagef("--timeout %v: give a duration above 0, such as 30s", a.timeout)
		}
		a.stdin, a.stdout, a.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		return run(cmd, args)
	}
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error { // cobra checks the same a moment later
		return asUsage(missingFlags(cmd))
	}
}

func missingCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(cmd.ErrOrStderr(), cmd.UsageString())
		if !cmd.HasParent() {
			return usagef("a command is missing")
		}
		return usagef("%s: a command is missing", cmd.Name())
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usagef("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
}

// execute runs the command line and returns the exit code: 0 done, 1 failed,
// 2 wrong usage.
func execute(ctx context.Context, root *cobra.Command) int {
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") { // errors.Join's
		fmt.Fprintf(cmd.ErrOrStderr(), "roomlog: %s\n", line)
	}
	if !errors.As(err, new(usageError)) {
		return 1
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "roomlog: see \"%s --help\"\n", cmd.CommandPath())
	return 2
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			v := buildVersion()
			return a.emit(map[string]string{"version": v}, func(w io.Writer) { fmt.Fprintln(w, "roomlog", v) })
		},
	}
}

// buildVersion is the release's version, else what the Go tool recorded.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return strings.Trim(info.Main.Version, "()")
}
