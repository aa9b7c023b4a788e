// Take any object over C-STORE and keep its data set as it came: PORT FOLDER [KEY CERT CA], the last three for mutual TLS.
const fs = require('fs');
const path = require('path');
const { constants, log, responses, Scp, Server } = require('dcmjs-dimse');

log.setLevel('warn');

const [port, folder, key, cert, ca] = process.argv.slice(2);

class Keeper extends Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(constants.PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    this.sendAssociationAccept();
  }

  createStoreWritableStream(context, request) {
    const name = `${request.getAffectedSopInstanceUid()}_${context.getAcceptedTransferSyntaxUid()}`;
    return fs.createWriteStream(path.join(folder, name));
  }

  createDatasetFromStoreWritableStream(writable, context, callback) {
    writable.on('finish', () => callback(undefined));
  }

  cEchoRequest(request, callback) {
    this.answer(responses.CEchoResponse, request, callback);
  }

  cStoreRequest(request, callback) {
    this.answer(responses.CStoreResponse, request, callback);
  }

  answer(kind, request, callback) {
    const response = kind.fromRequest(request);
    response.setStatus(constants.Status.Success);
    callback(response);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

const securityOptions = key && {
  key: fs.readFileSync(key),
  cert: fs.readFileSync(cert),
  ca: fs.readFileSync(ca),
  requestCert: true,
  rejectUnauthorized: true,
};
const server = new Server(Keeper);
server.on('networkError', (error) => console.error(String(error)));
server.listen(Number(port), { securityOptions });
