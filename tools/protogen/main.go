// Command protogen compiles .proto files without protoc: protocompile reads them, and the two plugins that tools/go.mod pins write the
// Go code beside them. It holds no template of its own.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protogen DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

// run compiles all of dir's .proto files.
func run(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.proto"))
	if err != nil || len(paths) == 0 {
		return errors.Join(err, fmt.Errorf("%s: no .proto files", dir))
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	slices.Sort(names)
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	files, err := c.Compile(context.Background(), names...)
	if err != nil {
		return err
	}
	param := "paths=source_relative"
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: &param}
	seen := map[string]bool{}
	var add func(fd *descriptorpb.FileDescriptorProto)
	add = func(fd *descriptorpb.FileDescriptorProto) {
		if seen[fd.GetName()] {
			return
		}
		seen[fd.GetName()] = true
		for _, dep := range fd.GetDependency() {
			if f := files.FindFileByPath(dep); f != nil {
				add(protodesc.ToFileDescriptorProto(f))
			} else if f, err := files.AsResolver().FindFileByPath(dep); err == nil {
				add(protodesc.ToFileDescriptorProto(f))
			}
		}
		req.ProtoFile = append(req.ProtoFile, fd)
	}
	for _, f := range files {
		add(protodesc.ToFileDescriptorProto(f))
	}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := generate(dir, plugin, req); err != nil {
			return err
		}
	}
	return sum(dir, names)
}

// sum writes down what the code was made of, for a test that needs no plugin.
func sum(dir string, names []string) error {
	var b bytes.Buffer
	for _, name := range names {
		src, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(src), name)
	}
	return os.WriteFile(filepath.Join(dir, "sources.sum"), b.Bytes(), 0o644)
}

// generate has one plugin write its files into dir.
func generate(dir, plugin string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", plugin, err)
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &resp); err != nil {
		return fmt.Errorf("%s: %w", plugin, err)
	}
	if resp.Error != nil {
		return fmt.Errorf("%s: %s", plugin, *resp.Error)
	}
	for _, f := range resp.File {
		if err := os.WriteFile(filepath.Join(dir, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
