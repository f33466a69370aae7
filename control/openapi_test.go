package control

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "write openapi.json")

type object = map[string]any

// TestOpenAPIUpToDate compares the OpenAPI document that is served with the services: each method that is registered is in it, with its messages,
// the comments of the .proto files, and its role.
func TestOpenAPIUpToDate(t *testing.T) {
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(document(t)); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.json", want.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(openAPI, want.Bytes()) {
		t.Error("openapi.json is not what the services are: run make generate")
	}
}

// document is the OpenAPI document of all routes.
func document(t *testing.T) object {
	t.Helper()
	d := documenter{comments: comments(t), schemas: object{"Error": object{
		"type": "object", "description": "What every call answers that has failed.",
		"properties": object{"error": object{"type": "object", "properties": object{
			"code":    object{"type": "string", "description": "a code of gRPC: NOT_FOUND, PERMISSION_DENIED, …"},
			"message": object{"type": "string", "description": "what was asked, what was found, and what to do next"}}}}}}}
	paths := object{}
	tags := []object{}
	s := New(Options{})
	for _, e := range s.services {
		name := shortName(e.desc.ServiceName)
		tags = append(tags, object{"name": name, "description": d.comments[name]})
	}
	for path, r := range routes(s.services) {
		of := object{"post": d.operation(r, "")}
		if r.reads {
			of["get"] = d.operation(r, "ByQuery")
		}
		paths[path] = of
	}
	return object{
		"openapi": "3.1.0",
		"info": object{"title": "Sluice control plane", "version": "1", "description": "The services of control/api over HTTP and JSON: POST with the request as a body, or GET with its fields in the query where " +
			"nothing is changed. Numbers of 64 bits are strings, bytes are base64, as in all JSON of Protocol Buffers. docs/operate/control.md explains roles, pages and errors."},
		"tags": tags, "paths": paths, "security": []object{{"token": []string{}}},
		"components": object{"schemas": d.schemas, "securitySchemes": object{"token": object{"type": "http", "scheme": "bearer",
			"description": "auth.control_token, or the token of one of control.principals"}}},
	}
}

func shortName(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }

type documenter struct {
	comments map[string]string // by Message.field, Service.Method, …
	schemas  object
}

// operation is one way to call a route; by is what its id ends in.
func (d *documenter) operation(r *route, by string) object {
	name := strings.Replace(methodName(r.method), ".", "", 1)
	service, _, _ := strings.Cut(methodName(r.method), ".")
	answer := object{"application/json": object{"schema": d.ref(r.output)}}
	if r.unary == nil {
		answer = object{"application/x-ndjson": object{"schema": object{"type": "object", "description": "a line each; the last one may be an error",
			"properties": object{"result": d.ref(r.output), "error": object{"$ref": "#/components/schemas/Error/properties/error"}}}}}
	}
	failed := object{"description": "an error", "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}}
	o := object{"operationId": name + by, "tags": []string{service}, "description": d.comments[methodName(r.method)], "x-sluice-role": rules[r.method].least.String(),
		"responses": object{"200": object{"description": "done", "content": answer}, "default": failed}}
	list := []object{}
	if rules[r.method].scope == scopeTenant {
		list = append(list, object{"name": tenantHeader, "in": "header", "schema": object{"type": "string"},
			"description": "the tenant whose things are meant; default that of the token, or the default tenant"})
	}
	if by != "" {
		o["parameters"] = append(list, d.parameters(r.input, "", 0)...)
		return o
	}
	if len(list) > 0 {
		o["parameters"] = list
	}
	o["requestBody"] = object{"content": object{"application/json": object{"schema": d.ref(r.input)}}}
	return o
}

// parameters are the fields of a request that a query can hold.
func (d *documenter) parameters(m protoreflect.MessageDescriptor, prefix string, depth int) []object {
	list := []object{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch {
		case f.IsMap(), f.Message() != nil && f.IsList(), depth > 3:
		case f.Message() != nil:
			list = append(list, d.parameters(f.Message(), prefix+string(f.Name())+".", depth+1)...)
		default:
			p := object{"name": prefix + string(f.Name()), "in": "query", "schema": d.field(f)}
			if text := d.comments[string(m.Name())+"."+string(f.Name())]; text != "" {
				p["description"] = text
			}
			list = append(list, p)
		}
	}
	return list
}

// ref names the schema of a message or enum, and makes it.
func (d *documenter) ref(t protoreflect.Descriptor) object {
	name := strings.TrimPrefix(string(t.FullName()), "sluice.control.v1.")
	if _, ok := d.schemas[name]; !ok {
		s := object{}
		d.schemas[name] = s
		if text := d.comments[name]; text != "" {
			s["description"] = text
		}
		switch t := t.(type) {
		case protoreflect.EnumDescriptor:
			var values []string
			for i := range t.Values().Len() {
				values = append(values, string(t.Values().Get(i).Name()))
			}
			s["type"], s["enum"] = "string", values
		case protoreflect.MessageDescriptor:
			properties := object{}
			for i := range t.Fields().Len() {
				f := t.Fields().Get(i)
				p := d.field(f)
				if text := d.comments[name+"."+string(f.Name())]; text != "" {
					p["description"] = text
				}
				properties[string(f.Name())] = p
			}
			s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
		}
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func (d *documenter) field(f protoreflect.FieldDescriptor) object {
	switch {
	case f.IsMap():
		return object{"type": "object", "additionalProperties": d.value(f.MapValue())}
	case f.IsList():
		return object{"type": "array", "items": d.value(f)}
	}
	return d.value(f)
}

func (d *documenter) value(f protoreflect.FieldDescriptor) object {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return d.ref(f.Message())
	case protoreflect.EnumKind:
		return d.ref(f.Enum())
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.DoubleKind:
		return object{"type": "number", "format": "double"}
	case protoreflect.Int32Kind:
		return object{"type": "integer", "format": "int32"}
	case protoreflect.Uint32Kind:
		return object{"type": "integer", "format": "int64", "minimum": 0}
	case protoreflect.Int64Kind, protoreflect.Uint64Kind:
		return object{"type": "string", "format": f.Kind().String()}
	case protoreflect.BytesKind:
		return object{"type": "string", "format": "byte"}
	default:
		return object{"type": "string"}
	}
}

var (
	protoOpen  = regexp.MustCompile(`^(service|message|enum) (\w+) \{(\})?`)
	protoRPC   = regexp.MustCompile(`^rpc (\w+)\(`)
	protoField = regexp.MustCompile(`^(?:repeated )?(?:map<[^>]*>|[\w.]+) (\w+) = \d+;(?: // (.*))?$`)
)

// comments are those of the .proto files, which generated code does not have: what stands above a service, a method or a message, and above or behind a field.
func comments(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	files, err := filepath.Glob("api/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var within []string
		var above []string
		note := func(name, text string) {
			if text != "" {
				all[strings.Join(append(slices.Clone(within), name), ".")] = text
			}
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if text, ok := strings.CutPrefix(line, "// "); ok {
				above = append(above, text)
				continue
			}
			said := strings.Join(above, " ")
			above = nil
			if m := protoOpen.FindStringSubmatch(line); m != nil {
				note(m[2], said)
				if m[3] == "" {
					within = append(within, m[2])
				}
			} else if m := protoRPC.FindStringSubmatch(line); m != nil {
				note(m[1], said)
			} else if m := protoField.FindStringSubmatch(line); m != nil {
				note(m[1], strings.TrimSpace(said+" "+m[2]))
			} else if line == "}" && len(within) > 0 {
				within = within[:len(within)-1]
			}
		}
	}
	return all
}

// Each reference of the document leads somewhere, ids are unique, and each operation, and most of what it holds, says what it is.
func TestOpenAPIIsWhole(t *testing.T) {
	var d object
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case object:
			if id, ok := v["operationId"].(string); ok {
				if ids[id] || v["description"] == "" || v["x-sluice-role"] == "none" {
					t.Errorf("%s: %v is there twice, or says nothing, or has no role", at, id)
				}
				ids[id] = true
			}
			if ref, ok := v["$ref"].(string); ok {
				var to any = d
				for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					of, _ := to.(object)
					to = of[part]
				}
				if to == nil {
					t.Errorf("%s: %s leads nowhere", at, ref)
				}
			}
			for k, e := range v {
				walk(at+"/"+k, e)
			}
		case []any:
			for _, e := range v {
				walk(at, e)
			}
		}
	}
	walk("", d)
	all := routes(New(Options{}).services)
	paths, _ := d["paths"].(object)
	if len(paths) != len(all) || len(ids) < len(all) {
		t.Errorf("%d paths, %d operations, %d routes", len(paths), len(ids), len(all))
	}
	for path, r := range all {
		of, _ := paths[path].(object)
		if of["post"] == nil || (of["get"] != nil) != r.reads {
			t.Errorf("%s: %v", path, of)
		}
	}
	topic := d["components"].(object)["schemas"].(object)["Topic"].(object)["properties"].(object)["records"].(object)
	if topic["type"] != "string" || !strings.Contains(topic["description"].(string), "offsets between") {
		t.Errorf("a field is described as %v", topic)
	}
}
