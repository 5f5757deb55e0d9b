package store

// NetworkRule gives a network rule, or ErrNotFound.
func (tx *Tx) NetworkRule(name string) (NetworkRule, error) { return networkRules.get(tx, name) }

// PutNetworkRule writes a network rule.
func (tx *Tx) PutNetworkRule(r NetworkRule) error { return networkRules.put(tx, r.Name, r) }

// DeleteNetworkRule deletes a network rule.
func (tx *Tx) DeleteNetworkRule(name string) error { return networkRules.delete(tx, name) }

// NetworkRules gives up to n network rules from the skip'th on, ordered by name.
func (tx *Tx) NetworkRules(skip, n int) []NetworkRule { return networkRules.page(tx, skip, n) }

// CountNetworkRules gives the number of network rules.
func (tx *Tx) CountNetworkRules() int { return networkRules.len(tx) }

// PermissionPolicy gives a permission policy, or ErrNotFound.
func (tx *Tx) PermissionPolicy(name string) (PermissionPolicy, error) {
	return permissions.get(tx, name)
}

// PutPermissionPolicy writes a permission policy.
func (tx *Tx) PutPermissionPolicy(p PermissionPolicy) error { return permissions.put(tx, p.Name, p) }

// DeletePermissionPolicy deletes a permission policy.
func (tx *Tx) DeletePermissionPolicy(name string) error { return permissions.delete(tx, name) }

// PermissionPolicies gives up to n permission policies from the skip'th on, ordered
// by name.
func (tx *Tx) PermissionPolicies(skip, n int) []PermissionPolicy {
	return permissions.page(tx, skip, n)
}

// CountPermissionPolicies gives the number of permission policies.
func (tx *Tx) CountPermissionPolicies() int { return permissions.len(tx) }

// AccessPoint gives an application access point, or ErrNotFound.
func (tx *Tx) AccessPoint(name string) (ApplicationAccessPoint, error) {
	return accessPoints.get(tx, name)
}

// PutAccessPoint writes an application access point.
func (tx *Tx) PutAccessPoint(a ApplicationAccessPoint) error { return accessPoints.put(tx, a.Name, a) }

// DeleteAccessPoint deletes an application access point with its client keys.
func (tx *Tx) DeleteAccessPoint(name string) error {
	for _, k := range tx.ClientKeys() {
		if k.AapName == name {
			if err := tx.DeleteClientKey(k.ClientKeyId); err != nil {
				return err
			}
		}
	}
	return accessPoints.delete(tx, name)
}

// AccessPoints gives up to n application access points from the skip'th on, ordered
// by name.
func (tx *Tx) AccessPoints(skip, n int) []ApplicationAccessPoint {
	return accessPoints.page(tx, skip, n)
}

// CountAccessPoints gives the number of application access points.
func (tx *Tx) CountAccessPoints() int { return accessPoints.len(tx) }

// ClientKey gives a client key, or ErrNotFound.
func (tx *Tx) ClientKey(clientKeyId string) (ClientKey, error) {
	return clientKeys.get(tx, clientKeyId)
}

// PutClientKey writes a client key.
func (tx *Tx) PutClientKey(k ClientKey) error { return clientKeys.put(tx, k.ClientKeyId, k) }

// DeleteClientKey deletes a client key.
func (tx *Tx) DeleteClientKey(clientKeyId string) error { return clientKeys.delete(tx, clientKeyId) }

// ClientKeys gives all client keys, ordered by id.
func (tx *Tx) ClientKeys() []ClientKey { return clientKeys.page(tx, 0, clientKeys.len(tx)) }

// CountClientKeys gives the number of client keys.
func (tx *Tx) CountClientKeys() int { return clientKeys.len(tx) }
