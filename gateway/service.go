package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// describeRegions requires only authentication, as in KMS.
func describeRegions(_ context.Context, c *call, _ *kms.NoRequest) (*kms.DescribeRegionsResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.DescribeRegionsResponse)
	resp.Regions.Region = []kms.RegionItem{{RegionId: c.server.instance.RegionId}}
	return resp, nil
}

func describeAccountKmsStatus(
	_ context.Context, c *call, _ *kms.NoRequest,
) (*kms.DescribeAccountKmsStatusResponse, error) {
	if err := c.authorizeOperation(); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return &kms.DescribeAccountKmsStatusResponse{AccountStatus: "Enabled"}, nil
}

// openKmsService does nothing and succeeds, because the service is always open.
func openKmsService(_ context.Context, c *call, _ *kms.NoRequest) (*kms.EmptyResponse, error) {
	if err := c.authorizeOperation(); err != nil {
		return nil, err
	}
	return emptyResponse(c.confirm())
}

func getKmsInstance(_ context.Context, c *call, req *kms.GetKmsInstanceRequest) (*kms.GetKmsInstanceResponse, error) {
	if err := c.authorize(c.server.arns.Instance(kms.Clip(req.KmsInstanceId))); err != nil {
		return nil, err
	}
	if req.KmsInstanceId != c.server.instance.InstanceId {
		return nil, kms.ErrResourceNotFound
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	i := kms.KmsInstance{
		CaCertificateChainPem: c.server.config.CACertificate,
		InstanceId:            c.server.instance.InstanceId,
		InstanceName:          c.server.instance.InstanceId,
		KeyNum:                int64(c.server.config.MaxKeys),
		SecretNum:             "0",
		Status:                "Connected",
	}
	i.BindVpcs.BindVpc = []kms.BindVpc{}
	return &kms.GetKmsInstanceResponse{KmsInstance: i}, nil
}

func listKmsInstances(
	_ context.Context, c *call, req *kms.ListKmsInstancesRequest,
) (*kms.ListKmsInstancesResponse, error) {
	page := kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize)
	if err := c.authorizeOperation(); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := &kms.ListKmsInstancesResponse{PageInfo: page}
	resp.TotalCount = 1
	resp.KmsInstances.KmsInstance = []kms.KmsInstanceItem{}
	if page.PageNumber == 1 {
		id := c.server.instance.InstanceId
		resp.KmsInstances.KmsInstance = append(resp.KmsInstances.KmsInstance,
			kms.KmsInstanceItem{KmsInstanceArn: c.server.arns.Instance(id), KmsInstanceId: id})
	}
	return resp, nil
}

// getAuditHead returns a signed checkpoint of the audit log's last line. The audit line of
// the call itself comes after it.
func getAuditHead(ctx context.Context, c *call, _ *kms.NoRequest) (*kms.GetAuditHeadResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	checkpoint, err := c.server.config.Audit.Checkpoint(ctx)
	return &kms.GetAuditHeadResponse{Head: checkpoint.String()}, err
}
