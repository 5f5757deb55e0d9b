package config

import "reflect"

// Changed returns the full names of the fields whose values differ between two configurations, in
// the file's order. If one has more listeners, it names listeners besides the fields of those that
// both have.
func Changed(before, after *Config) (changed []string) {
	old := make(map[string]any) // the values before, by field
	walk(reflect.ValueOf(before).Elem(), "", func(field string, _ reflect.StructTag, v reflect.Value) {
		old[field] = v.Interface()
	})
	walk(reflect.ValueOf(after).Elem(), "", func(field string, _ reflect.StructTag, v reflect.Value) {
		value, found := old[field]
		listeners, isList := value.([]Listener)
		switch {
		case !found: // a field of a listener that is new
		case isList && len(listeners) == v.Len(): // walk visits the fields of each
		case !reflect.DeepEqual(value, v.Interface()):
			changed = append(changed, field)
		}
	})
	return changed
}
