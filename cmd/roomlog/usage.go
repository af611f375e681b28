package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError says what is wrong with a flag, without the words of the library
// that parses it.
func flagError(_ *cobra.Command, err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return usageError{err}
	}
	why := map[string]string{
		"uint64":      "is not a number from 0 on",
		"int":         "is not a whole number",
		"float64":     "is not a number",
		"duration":    "is not a duration such as 500ms, 10s or 5m",
		"bool":        "is neither true nor false",
		"stringSlice": "is not a list with commas",
	}[bad.GetFlag().Value.Type()]
	if why == "" {
		why = "cannot be read: " + bad.Unwrap().Error()
	}
	return usagef("--%s: %q %s", bad.GetFlag().Name, bad.GetValue(), why)
}

// missingFlags names the flags that must be given and are not.
func missingFlags(cmd *cobra.Command) error {
	var missing []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, required := f.Annotations[cobra.BashCompOneRequiredFlag]; required && !f.Changed {
			missing = append(missing, fmt.Errorf("--%s is missing", f.Name))
		}
	})
	return errors.Join(missing...)
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, but was given %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// oneArg is for commands that take one argument, such as a room.
func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("%s is missing", name)
		case len(args) > 1:
			return fmt.Errorf("%s takes one %s, but was also given %q", cmd.CommandPath(), name, args[1])
		}
		return nil
	}
}
