/// The templates that come with Sciferry, for recipes whose collection has none of that name: neurodocker's public ones,
/// and a few of our own. Each is a file in `Templates`.
package enum BundledTemplates {
    /// Their names, sorted.
    package static var names: [String] { files.keys.sorted() }

    /// A template's text; `nil` for an unknown name.
    static func bytes(_ name: String) -> [UInt8]? { files[name] }

    private static let files: [String: [UInt8]] = [
        "afni": PackageResources.afni_yaml,
        "ants": PackageResources.ants_yaml,
        "apt": PackageResources.apt_yaml,
        "bids_validator": PackageResources.bids_validator_yaml,
        "cat12": PackageResources.cat12_yaml,
        "convert3d": PackageResources.convert3d_yaml,
        "dcm2niix": PackageResources.dcm2niix_yaml,
        "freesurfer": PackageResources.freesurfer_yaml,
        "fsl": PackageResources.fsl_yaml,
        "jq": PackageResources.jq_yaml,
        "matlabmcr": PackageResources.matlabmcr_yaml,
        "micromamba": PackageResources.micromamba_yaml,
        "minc": PackageResources.minc_yaml,
        "miniconda": PackageResources.miniconda_yaml,
        "mricron": PackageResources.mricron_yaml,
        "mrtrix3": PackageResources.mrtrix3_yaml,
        "ndfreeze": PackageResources.ndfreeze_yaml,
        "neurodebian": PackageResources.neurodebian_yaml,
        "niftyreg": PackageResources.niftyreg_yaml,
        "petpvc": PackageResources.petpvc_yaml,
        "pip": PackageResources.pip_yaml,
        "r": PackageResources.r_yaml,
        "source": PackageResources.source_yaml,
        "spm12": PackageResources.spm12_yaml,
        "vnc": PackageResources.vnc_yaml,
    ]
}
