-- Columns in capitals are normalised attributes by their keyword, '' where empty; tables.py sees that none is missing.
-- `attributes` are DICOM JSON texts. `cursor` and `place` sort as answers are ordered (model/cursor.py): newest study
-- first, so that (tenant, cursor) serves listing, paging and every range of study dates.
CREATE TABLE patient (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    identity TEXT NOT NULL,
    PatientName TEXT NOT NULL,
    PatientID TEXT NOT NULL,
    IssuerOfPatientID TEXT NOT NULL,
    PatientBirthDate TEXT NOT NULL,
    PatientSex TEXT NOT NULL,
    attributes TEXT NOT NULL,
    UNIQUE (tenant, identity)
);
CREATE INDEX patient_id ON patient (tenant, PatientID);
CREATE INDEX patient_name ON patient (tenant, PatientName);

-- A study keeps the patient it came with beside the row of the patient: one study may spell the name in another way.
CREATE TABLE study (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    patient INTEGER NOT NULL REFERENCES patient,
    cursor TEXT NOT NULL,
    PatientName TEXT NOT NULL,
    PatientID TEXT NOT NULL,
    IssuerOfPatientID TEXT NOT NULL,
    PatientBirthDate TEXT NOT NULL,
    PatientSex TEXT NOT NULL,
    StudyDate TEXT NOT NULL,
    StudyTime TEXT NOT NULL,
    AccessionNumber TEXT NOT NULL,
    ReferringPhysicianName TEXT NOT NULL,
    StudyDescription TEXT NOT NULL,
    StudyInstanceUID TEXT NOT NULL,
    StudyID TEXT NOT NULL,
    series_count INTEGER NOT NULL DEFAULT 0,
    instance_count INTEGER NOT NULL DEFAULT 0,
    modalities TEXT NOT NULL DEFAULT '[]',
    sop_classes TEXT NOT NULL DEFAULT '[]',
    patient_attributes TEXT NOT NULL,
    attributes TEXT NOT NULL,
    UNIQUE (tenant, StudyInstanceUID)
);
CREATE INDEX study_cursor ON study (tenant, cursor);
CREATE INDEX study_patient ON study (patient);
CREATE INDEX study_patient_id ON study (tenant, PatientID);
CREATE INDEX study_patient_name ON study (tenant, PatientName);
CREATE INDEX study_birth_date ON study (tenant, PatientBirthDate);
CREATE INDEX study_accession_number ON study (tenant, AccessionNumber);
CREATE INDEX study_referring_physician ON study (tenant, ReferringPhysicianName);
CREATE INDEX study_description ON study (tenant, StudyDescription);
CREATE INDEX study_study_id ON study (tenant, StudyID);

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    study INTEGER NOT NULL REFERENCES study,
    place TEXT NOT NULL,
    SeriesDate TEXT NOT NULL,
    SeriesTime TEXT NOT NULL,
    Modality TEXT NOT NULL,
    InstitutionName TEXT NOT NULL,
    StationName TEXT NOT NULL,
    SeriesDescription TEXT NOT NULL,
    PerformingPhysicianName TEXT NOT NULL,
    BodyPartExamined TEXT NOT NULL,
    ProtocolName TEXT NOT NULL,
    SeriesInstanceUID TEXT NOT NULL,
    SeriesNumber TEXT NOT NULL,
    PerformedProcedureStepStartDate TEXT NOT NULL,
    PerformedProcedureStepStartTime TEXT NOT NULL,
    instance_count INTEGER NOT NULL DEFAULT 0,
    attributes TEXT NOT NULL,
    UNIQUE (study, SeriesInstanceUID)
);
CREATE INDEX series_uid ON series (SeriesInstanceUID);
CREATE INDEX series_place ON series (study, place);

-- An instance and the object that is served for it.
CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    place TEXT NOT NULL,
    SOPClassUID TEXT NOT NULL,
    SOPInstanceUID TEXT NOT NULL,
    ContentDate TEXT NOT NULL,
    ContentTime TEXT NOT NULL,
    InstanceNumber TEXT NOT NULL,
    attributes TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    transfer_syntax_uid TEXT NOT NULL,
    size INTEGER NOT NULL,
    data_set_offset INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    number_of_frames INTEGER NOT NULL,
    received TEXT NOT NULL,
    UNIQUE (tenant, SOPInstanceUID)
);
CREATE INDEX instance_place ON instance (series, place);

-- The objects that are kept and not served: they differ from the one of their instance. Their study need not be known.
CREATE TABLE aside (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    StudyInstanceUID TEXT NOT NULL,
    SeriesInstanceUID TEXT NOT NULL,
    SOPClassUID TEXT NOT NULL,
    SOPInstanceUID TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    transfer_syntax_uid TEXT NOT NULL,
    size INTEGER NOT NULL,
    data_set_offset INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    number_of_frames INTEGER NOT NULL,
    received TEXT NOT NULL
);
CREATE INDEX aside_sop ON aside (tenant, SOPInstanceUID);

-- How many instances of which class a series has: what every count comes from, kept in step in each transaction.
CREATE TABLE content (
    series INTEGER NOT NULL REFERENCES series,
    SOPClassUID TEXT NOT NULL,
    instances INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (series, SOPClassUID)
) WITHOUT ROWID;
