package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// readYAML reads a file that holds one mapping with some of the known keys. An
// empty file is an empty mapping.
func readYAML(path string, known []string) (*yaml.Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var doc yaml.Node
	if err := yaml.NewDecoder(f).Decode(&doc); errors.Is(err, io.EOF) {
		return &yaml.Node{Kind: yaml.MappingNode}, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want lines of the form KEY: VALUE", path, root.Line)
	}
	var bad []error
	seen := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key := root.Content[i]
		switch {
		case !slices.Contains(known, key.Value):
			bad = append(bad, fmt.Errorf("%s:%d: unknown key %q%s", path, key.Line, key.Value, didYouMean(key.Value, known)))
		case seen[key.Value]:
			bad = append(bad, fmt.Errorf("%s:%d: key %q stands here a second time", path, key.Line, key.Value))
		}
		seen[key.Value] = true
	}
	return root, errors.Join(bad...)
}
