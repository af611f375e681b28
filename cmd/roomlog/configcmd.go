package main

import (
	"github.com/spf13/cobra"
)

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration of a node",
		Long: `Print what "roomlog serve" would be configured with when called with the same
flags, variables and file, and where each value comes from. The token is masked.
A value that serve would refuse is an error.`,
		Args: noArgs,
	}
	addSettingFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, warnings, err := readValues(cmd.Flags())
		if err != nil {
			return usageError{err}
		}
		for _, w := range warnings {
			a.warn(w)
		}
		_, invalid := v.config()
		v.at("token").Value = mask(v.get("token"))
		err = emitTable(a, v, []string{"KEY", "VALUE", "ORIGIN"}, func(v value) []any {
			return []any{v.Key, v.Value, v.Origin}
		})
		if err != nil {
			return err
		}
		return asUsage(invalid)
	}
	return cmd
}
