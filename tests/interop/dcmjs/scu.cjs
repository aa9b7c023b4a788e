// Ask what the JSON on the command line says over one association; print each answer as a line of JSON.
const fs = require('fs');
const path = require('path');
const { association, Client, constants, Dataset, log, requests, responses } = require('dcmjs-dimse');

log.setLevel('warn');

const job = JSON.parse(process.argv[2]);
const tell = (line) => console.log(JSON.stringify(line));

const makers = {
  echo: () => new requests.CEchoRequest(),
  store: ({ file, sopClass, syntax }) => {
    // In a context of its own: in the one that the library proposes the uncompressed ones come first.
    const context = new association.PresentationContext(0, sopClass, syntax);
    client.addAdditionalPresentationContext(context, true);
    const request = new requests.CStoreRequest(file);
    request.setAdditionalTransferSyntaxes([syntax]);
    return request;
  },
  find: ({ level, keys }) => {
    const { createStudyFindRequest, createSeriesFindRequest, createImageFindRequest } = requests.CFindRequest;
    const make = { STUDY: createStudyFindRequest, SERIES: createSeriesFindRequest, IMAGE: createImageFindRequest }[level];
    return make(keys);
  },
  worklist: ({ keys }) => requests.CFindRequest.createWorklistFindRequest(keys),
  get: ({ uids, syntaxes }) => {
    const { createStudyGetRequest, createSeriesGetRequest, createImageGetRequest } = requests.CGetRequest;
    const make = [createStudyGetRequest, createSeriesGetRequest, createImageGetRequest][uids.length - 1];
    const request = make(...uids);
    request.setAdditionalTransferSyntaxes?.(syntaxes || []);
    return request;
  },
  move: ({ destination, uids }) => {
    const { createStudyMoveRequest, createSeriesMoveRequest, createImageMoveRequest } = requests.CMoveRequest;
    return [createStudyMoveRequest, createSeriesMoveRequest, createImageMoveRequest][uids.length - 1](destination, ...uids);
  },
  create: ({ sopClass, uid, elements }) => {
    const request = new requests.NCreateRequest(sopClass, uid);
    request.setDataset(new Dataset(elements));
    return request;
  },
  set: ({ sopClass, uid, elements }) => {
    const request = new requests.NSetRequest(sopClass, uid);
    request.setDataset(new Dataset(elements));
    return request;
  },
  commit: ({ references }) => {
    const request = new requests.NActionRequest(
      constants.SopClass.StorageCommitmentPushModel, '1.2.840.10008.1.20.1.1', 1);
    request.setDataset(new Dataset({
      TransactionUID: Dataset.generateDerivedUid(),
      ReferencedSOPSequence: references.map(([ReferencedSOPClassUID, ReferencedSOPInstanceUID]) => (
        { ReferencedSOPClassUID, ReferencedSOPInstanceUID })),
    }));
    return request;
  },
};

const told = (response) => {
  const line = { status: response.getStatus(), elements: response.getDataset()?.getElements() };
  for (const [name, get] of [['completed', 'getCompleted'], ['failed', 'getFailures'], ['warnings', 'getWarnings']]) {
    if (response[get]) line[name] = response[get]();
  }
  return line;
};

const client = new Client();
for (const one of job.requests) {
  const request = makers[one.kind](one);
  request.on('response', (response) => tell(told(response)));
  client.addRequest(request);
}
client.on('cStoreRequest', (request, callback) => {
  const dataset = request.getDataset();
  dataset.toFile(path.join(job.folder, `${request.getAffectedSopInstanceUid()}.dcm`));
  const response = responses.CStoreResponse.fromRequest(request);
  response.setStatus(constants.Status.Success);
  callback(response);
});
client.on('nEventReportRequest', (request, callback) => {
  tell({ report: request.getEventTypeId(), elements: request.getDataset().getElements() });
  const response = responses.NEventReportResponse.fromRequest(request);
  response.setStatus(constants.Status.Success);
  callback(response);
  // It was lingering for this alone.
  setImmediate(() => client.network.sendAssociationReleaseRequest());
});
client.on('associationReleased', () => {
  tell({ ended: 'released' });
  process.exitCode = 0;
  setImmediate(() => process.exit());
});
client.on('associationRejected', (why) => tell({ ended: 'rejected', why }));
client.on('networkError', (error) => tell({ ended: 'error', why: String(error) }));

const read = (name) => job.tls && fs.readFileSync(job.tls[name]);
const securityOptions = job.tls && { key: read('key'), cert: read('cert'), ca: read('ca'), rejectUnauthorized: true };
client.send(job.host, job.port, job.calling || 'DCMJS', job.called, {
  securityOptions,
  userIdentity: job.userIdentity,
  associationLingerTimeout: job.linger || 0,
});
