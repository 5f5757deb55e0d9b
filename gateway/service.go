package gateway

import "context"

type noRequest struct{}

type regionItem struct{ RegionId string }

type describeRegionsResponse struct {
	result
	Regions struct{ Region []regionItem }
}

// describeRegions needs authentication only, as in KMS.
func describeRegions(_ context.Context, c *call, _ *noRequest) (*describeRegionsResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(describeRegionsResponse)
	resp.Regions.Region = []regionItem{{c.server.instance.RegionId}}
	return resp, nil
}

type describeAccountKmsStatusResponse struct {
	result
	AccountStatus string
}

func describeAccountKmsStatus(_ context.Context, c *call, _ *noRequest) (*describeAccountKmsStatusResponse, error) {
	if err := c.authorizeKeyless(); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return &describeAccountKmsStatusResponse{AccountStatus: "Enabled"}, nil
}

// openKmsService has nothing to open: the service is there.
func openKmsService(_ context.Context, c *call, _ *noRequest) (*emptyResponse, error) {
	if err := c.authorizeKeyless(); err != nil {
		return nil, err
	}
	return done(c.confirm())
}

type getKmsInstanceRequest struct {
	KmsInstanceId string `kms:"required"`
}

type bindVpc struct{ RegionId, VSwitchId, VpcId, VpcOwnerId string }

// A kmsInstance has the members that the API has; what an appliance has not, no
// VPC and no end, is empty.
type kmsInstance struct {
	BindVpcs              struct{ BindVpc []bindVpc }
	CaCertificateChainPem string
	CreateTime            string
	EndDate               string
	InstanceId            string
	InstanceName          string
	KeyNum                int64
	SecretNum             string
	Spec                  int64
	StartDate             string
	Status                string
	VpcId                 string
	VpcNum                int64
	VswitchIds            string
	ZoneIds               string
}

type getKmsInstanceResponse struct {
	result
	KmsInstance kmsInstance
}

func getKmsInstance(_ context.Context, c *call, req *getKmsInstanceRequest) (*getKmsInstanceResponse, error) {
	if err := c.authorize(c.server.instanceARN(clip(req.KmsInstanceId))); err != nil {
		return nil, err
	}
	if req.KmsInstanceId != c.server.instance.InstanceId {
		return nil, errResourceNotFound
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	i := kmsInstance{
		CaCertificateChainPem: c.server.CACertificate,
		InstanceId:            c.server.instance.InstanceId,
		InstanceName:          c.server.instance.InstanceId,
		KeyNum:                int64(c.server.MaxKeys),
		SecretNum:             "0",
		Status:                "Connected",
	}
	i.BindVpcs.BindVpc = []bindVpc{}
	return &getKmsInstanceResponse{KmsInstance: i}, nil
}

type listKmsInstancesRequest struct {
	PageNumber *int
	PageSize   *int
}

type kmsInstanceItem struct {
	KmsInstanceArn string
	KmsInstanceId  string
}

type listKmsInstancesResponse struct {
	result
	KmsInstances struct{ KmsInstance []kmsInstanceItem }
	pageInfo
}

func listKmsInstances(_ context.Context, c *call, req *listKmsInstancesRequest) (*listKmsInstancesResponse, error) {
	page, err := newPage(req.PageNumber, req.PageSize)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKeyless(); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := &listKmsInstancesResponse{pageInfo: page}
	resp.TotalCount = 1
	resp.KmsInstances.KmsInstance = []kmsInstanceItem{}
	if page.PageNumber == 1 {
		id := c.server.instance.InstanceId
		resp.KmsInstances.KmsInstance = append(resp.KmsInstances.KmsInstance, kmsInstanceItem{c.server.instanceARN(id), id})
	}
	return resp, nil
}

// instanceARN is the ARN of an instance, which KMS calls a key store there.
func (s *Server) instanceARN(instanceId string) string { return s.arn("keystore/" + instanceId) }

type getAuditHeadResponse struct {
	result
	Head string
}

// getAuditHead signs where the audit log is. Its own line comes behind that.
func getAuditHead(ctx context.Context, c *call, _ *noRequest) (*getAuditHeadResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	checkpoint, err := c.server.Audit.Checkpoint(ctx)
	return &getAuditHeadResponse{Head: checkpoint.String()}, err
}
