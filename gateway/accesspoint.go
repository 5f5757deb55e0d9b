package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// clientKeyMethod is the only AuthenticationMethod.
const clientKeyMethod = "ClientKey"

// maxAccessPointPolicies is how many permission policies an access point can have,
// as in KMS.
const maxAccessPointPolicies = 3

var accessPoints = collection[store.ApplicationAccessPoint]{
	"access point", (*store.Records).AccessPoints, (*store.Tx).AccessPoints,
}

func parsePermissionPolicies(text string) ([]string, error) {
	return parseNames("Policies", text, 1, maxAccessPointPolicies,
		func(name string) error { return checkName("Policies", name) })
}

// checkPermissionPolicies refuses names of permission policies that do not exist.
func checkPermissionPolicies(records *store.Records, policies []string) error {
	for _, name := range policies {
		if _, err := permissionPolicies.find(records, name); err != nil {
			return kms.InvalidParameter("Policies", "there is no permission policy %q", name)
		}
	}
	return nil
}

func newAccessPointResponse(c *call, a store.ApplicationAccessPoint) *kms.AccessPointResponse {
	return &kms.AccessPointResponse{Arn: c.namedARN(a.Name), AuthenticationMethod: clientKeyMethod,
		Description: a.Description, Name: a.Name, Policies: jsonText(a.Policies)}
}

func createApplicationAccessPoint(
	_ context.Context, c *call, req *kms.CreateApplicationAccessPointRequest,
) (*kms.AccessPointResponse, error) {
	policies, err := parsePermissionPolicies(req.Policies)
	if err != nil {
		return nil, err
	}
	a := store.ApplicationAccessPoint{Name: req.Name, Description: req.Description, Policies: policies,
		CreationDate: c.now}
	err = accessPoints.create(c, a.Name, a,
		func(records *store.Records) error { return checkPermissionPolicies(records, policies) })
	if err != nil {
		return nil, err
	}
	return newAccessPointResponse(c, a), nil
}

func describeApplicationAccessPoint(
	_ context.Context, c *call, req *kms.NameRequest,
) (*kms.AccessPointResponse, error) {
	a, err := accessPoints.describe(c, req.Name)
	if err != nil {
		return nil, err
	}
	return newAccessPointResponse(c, a), nil
}

func listApplicationAccessPoints(
	_ context.Context, c *call, req *kms.ListNamedRequest,
) (*kms.ListApplicationAccessPointsResponse, error) {
	all, page, err := accessPoints.list(c, req)
	if err != nil {
		return nil, err
	}
	items := []kms.AccessPointItem{} // an empty list is [], not null
	for _, a := range all {
		items = append(items, kms.AccessPointItem{AuthenticationMethod: clientKeyMethod, Name: a.Name})
	}
	resp := &kms.ListApplicationAccessPointsResponse{PageInfo: page}
	resp.ApplicationAccessPoints.ApplicationAccessPoint = items
	return resp, nil
}

func updateApplicationAccessPoint(
	_ context.Context, c *call, req *kms.UpdateApplicationAccessPointRequest,
) (*kms.EmptyResponse, error) {
	policies, err := parseOptional(req.Policies, parsePermissionPolicies)
	if err != nil {
		return nil, err
	}
	change := func(records *store.Records, a *store.ApplicationAccessPoint) error {
		setOptional(&a.Description, req.Description)
		setOptional(&a.Policies, policies)
		if policies == nil { // the list is unchanged; its policies may have been deleted
			return nil
		}
		return checkPermissionPolicies(records, *policies)
	}
	return emptyResponse(accessPoints.update(c, req.Name, change))
}

// deleteApplicationAccessPoint deletes an access point and its client keys.
func deleteApplicationAccessPoint(_ context.Context, c *call, req *kms.NameRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(accessPoints.delete(c, req.Name))
}
