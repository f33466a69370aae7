// Package mosquitto reads what a Mosquitto broker goes by, and says it in the words of this one.
//
// Translate makes a configuration, a password file and a rule file out of mosquitto.conf and what it names, with a note for each line that
// is not carried over, or that means something else here. Copy fetches the retained messages of a broker that runs. It knows Mosquitto's
// options by their names and never runs or changes that broker; `sluice import mosquitto` writes what it makes.
package mosquitto
