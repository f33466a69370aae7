// Package config turns a YAML file, the environment and flags into one typed Config, and says with line and column what is wrong
// with them. It owns the keys, their defaults, units and bounds, and what a configuration must not be; it opens no file but its
// own and those that a secret names, and starts nothing. Neighbours: cmd/sluice loads it, server builds from it.
package config
