package report

import (
	"bytes"
	"encoding/json"
	"strings"

	"etcdadm/pkg/api"
)

// marshalYAML returns the YAML of what encoding/json makes of doc, in the same order. So both forms hold the same, and text
// stays text: an id such as 7e12345678901234 is a number to a YAML reader unless it is quoted.
func marshalYAML(doc any) ([]byte, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	y := yamlWriter{in: json.NewDecoder(bytes.NewReader(b))}
	y.in.UseNumber()
	err = y.value(0, "", "")
	return y.out.Bytes(), err
}

type yamlWriter struct {
	in  *json.Decoder
	out bytes.Buffer
}

// value writes the next value. The indent is that of its entries when it has some; before stands ahead of a scalar, and
// ahead of the first entry of a mapping.
func (y *yamlWriter) value(indent int, before, beforeMapping string) error {
	token, err := y.in.Token()
	if err != nil {
		return err
	}
	switch t := token.(type) {
	case json.Delim:
		return y.entries(indent, t == '[', before, beforeMapping)
	case string:
		y.out.WriteString(before + api.YAMLString(t) + "\n")
	case json.Number:
		y.out.WriteString(before + t.String() + "\n")
	case bool:
		y.out.WriteString(before + map[bool]string{true: "true", false: "false"}[t] + "\n")
	case nil:
		y.out.WriteString(before + "null\n")
	}
	return nil
}

func (y *yamlWriter) entries(indent int, list bool, before, beforeMapping string) error {
	margin := strings.Repeat(" ", indent)
	first := true
	for y.in.More() {
		switch {
		case !first:
			y.out.WriteString(margin)
		case list && before != "":
			y.out.WriteString("\n" + margin)
		default:
			y.out.WriteString(beforeMapping)
		}
		first = false
		var err error
		if list {
			y.out.WriteString("-")
			err = y.value(indent+2, " ", " ")
		} else {
			key, _ := y.in.Token() // a decoder gives nothing but strings here
			y.out.WriteString(api.YAMLString(key.(string)) + ":")
			err = y.value(indent+2, " ", "\n"+margin+"  ")
		}
		if err != nil {
			return err
		}
	}
	if first {
		y.out.WriteString(before + map[bool]string{true: "[]", false: "{}"}[list] + "\n")
	}
	_, err := y.in.Token() // the closing bracket
	return err
}
