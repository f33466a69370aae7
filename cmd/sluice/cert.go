package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/cluster/cert"
)

func init() { register(newCert) }

func newCert() *cobra.Command {
	c := &cobra.Command{
		Use: "cert", Short: "Make and check the certificates by which nodes know each other",
		Long: "Make the authority of a cluster, and a certificate for each node. Keys are ECDSA P-256; all files can be read by their owner\n" +
			"alone, and none but the list of revoked ones is written over. docs/operate/certificates.md says how to replace them.",
	}
	c.AddCommand(newCertCA(), newCertNode(), newCertRevoke(), newCertCheck())
	return c
}

func newCertCA() *cobra.Command {
	var dir, name string
	var days int
	c := &cobra.Command{
		Use: "ca", Short: "Make the authority of a cluster", Args: atMost(0),
		Long:    "Make ca.pem, which every node gets, and ca-key.pem, which makes nodes and stays where it is safe.",
		Example: "  sluice cert ca --dir certs --cluster fleet",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cert.MakeCA(dir, name, time.Duration(days)*24*time.Hour, time.Now()); err != nil {
				return err
			}
			return made(cmd.ErrOrStderr(), dir, cert.CAFile, cert.CAKeyFile)
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "directory of the files; made if it is not there")
	c.Flags().StringVar(&name, "cluster", "", "name of the cluster, for people")
	c.Flags().IntVar(&days, "days", int(cert.CAValid/(24*time.Hour)), "days that it counts")
	_ = c.MarkFlagDirname("dir")
	return c
}

func newCertNode() *cobra.Command {
	var dir, ca, caKey string
	var hosts []string
	var days int
	c := &cobra.Command{
		Use: "node ID", Short: "Make a node's certificate", Args: exactly("ID"),
		Long: "Make node-ID.pem and node-ID-key.pem, signed by the cluster's authority. The node's id (node.id) is in the certificate: whoever\n" +
			"has it and its key is that node to the others.",
		Example: "  sluice cert node 1 --dir certs\n  sluice cert node 2 --dir certs --host broker-2.example --host 10.0.0.2",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return misused("want a node's id, a number, not %q", args[0])
			}
			if ca == "" {
				ca = filepath.Join(dir, cert.CAFile)
			}
			if caKey == "" {
				caKey = filepath.Join(filepath.Dir(ca), cert.CAKeyFile)
			}
			o := cert.NodeOptions{ID: uint32(id), Hosts: hosts, Valid: time.Duration(days) * 24 * time.Hour, Now: time.Now()}
			if err := cert.MakeNode(dir, ca, caKey, o); err != nil {
				return err
			}
			certFile, keyFile := cert.NodeFiles(o.ID)
			return made(cmd.ErrOrStderr(), dir, certFile, keyFile)
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "directory of the files")
	c.Flags().StringVar(&ca, "ca", "", "certificate of the authority; ca.pem in the directory unless told otherwise")
	c.Flags().StringVar(&caKey, "ca-key", "", "its key; ca-key.pem beside it unless told otherwise")
	c.Flags().StringArrayVar(&hosts, "host", nil, "name or address of the node to put in as well, for other tools; may be repeated")
	c.Flags().IntVar(&days, "days", int(cert.NodeValid/(24*time.Hour)), "days that it counts, at most as long as the authority")
	_ = c.MarkFlagDirname("dir")
	_ = c.MarkFlagFilename("ca")
	_ = c.MarkFlagFilename("ca-key")
	return c
}

func newCertRevoke() *cobra.Command {
	var dir, ca, caKey string
	var days int
	c := &cobra.Command{
		Use: "revoke [FILE...]", Short: "Make the list of nodes' certificates that do not count any more",
		Long: "Have crl.pem, which the other nodes read as cluster.crl, name the certificates of these files beside those that it names already. Without a file the\n" +
			"list is made anew, to count for another while.",
		Example: "  sluice cert revoke certs/node-2.pem --dir certs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if ca == "" {
				ca = filepath.Join(dir, cert.CAFile)
			}
			if caKey == "" {
				caKey = filepath.Join(filepath.Dir(ca), cert.CAKeyFile)
			}
			if err := cert.Revoke(filepath.Join(dir, cert.CRLFile), ca, caKey, args, time.Duration(days)*24*time.Hour, time.Now()); err != nil {
				return err
			}
			return made(cmd.ErrOrStderr(), dir, cert.CRLFile)
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "directory of crl.pem")
	c.Flags().StringVar(&ca, "ca", "", "certificate of the authority; ca.pem in the directory unless told otherwise")
	c.Flags().StringVar(&caKey, "ca-key", "", "its key; ca-key.pem beside it unless told otherwise")
	c.Flags().IntVar(&days, "days", int(cert.CRLValid/(24*time.Hour)), "days that the list counts")
	_ = c.MarkFlagDirname("dir")
	_ = c.MarkFlagFilename("ca")
	_ = c.MarkFlagFilename("ca-key")
	return c
}

func newCertCheck() *cobra.Command {
	var f cert.Files
	c := &cobra.Command{
		Use: "check", Short: "Say whose certificate it is, and whether the other nodes would take it", Args: atMost(0),
		Long:    "Check that a node's certificate, its key and the authority belong together and count today.",
		Example: "  sluice cert check --cert node-1.pem --key node-1-key.pem --ca ca.pem",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Cert == "" || f.Key == "" || f.CA == "" {
				return misused("want --cert, --key and --ca")
			}
			s, err := cert.Load(f, time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: node %d, until %s\n", f.Cert, s.Node, s.Expires.UTC().Format(time.DateOnly))
			return err
		},
	}
	c.Flags().StringVar(&f.Cert, "cert", "", "the node's certificate")
	c.Flags().StringVar(&f.Key, "key", "", "its key")
	c.Flags().StringVar(&f.CA, "ca", "", "the cluster's authority")
	c.Flags().StringArrayVar(&f.CRL, "crl", nil, "a list of revoked certificates; may be repeated")
	_ = c.MarkFlagFilename("crl")
	for _, name := range []string{"cert", "key", "ca"} {
		_ = c.MarkFlagFilename(name)
	}
	return c
}

func made(w io.Writer, dir string, files ...string) error {
	for _, f := range files {
		if _, err := fmt.Fprintln(w, "made", filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	return nil
}
