// What GitOps tools say of objects: JSON objects on stdin, a line of JSON for each on stdout.
//
// `kstatus` is what Flux shows, by the library that it uses. `argo` is what Argo CD shows with the health check in the
// file that is the first argument, by the Lua that it uses; without an argument it is left out.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type health struct {
	Kstatus string `json:"kstatus"`
	Message string `json:"message"`
	Argo    string `json:"argo,omitempty"`
}

func main() {
	script := ""
	if len(os.Args) > 1 {
		text, err := os.ReadFile(os.Args[1])
		check(err)
		script = string(text)
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for in.More() {
		var raw json.RawMessage
		check(in.Decode(&raw))
		object := &unstructured.Unstructured{}
		check(object.UnmarshalJSON(raw)) // whole numbers stay such, as kstatus wants them
		result, err := status.Compute(object)
		check(err)
		found := health{Kstatus: result.Status.String(), Message: result.Message}
		if script != "" {
			found.Argo, err = argo(script, object.Object)
			check(err)
		}
		check(out.Encode(found))
	}
}

func argo(script string, object map[string]interface{}) (string, error) {
	state := lua.NewState()
	defer state.Close()
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return "", err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", fmt.Errorf("the health check returned no table")
	}
	return table.RawGetString("status").String(), nil
}

func value(state *lua.LState, of interface{}) lua.LValue {
	switch of := of.(type) {
	case map[string]interface{}:
		table := state.NewTable()
		for key, item := range of {
			table.RawSetString(key, value(state, item))
		}
		return table
	case []interface{}:
		table := state.NewTable()
		for _, item := range of {
			table.Append(value(state, item))
		}
		return table
	case string:
		return lua.LString(of)
	case bool:
		return lua.LBool(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	}
	return lua.LNil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
