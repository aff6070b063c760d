/**
 * Makes a volume that only its owner reads. The provider asks libvirt for mode 0644, and in the pool's folder names can be guessed:
 * any user of the host could read the data of guests (T-25). While a guest runs, libvirt gives the file to QEMU's user.
 *
 * The field `xml` of volumes made before has to be ignored: in this provider every field of a volume replaces it.
 */
export const PRIVATE_VOLUME = {
  xslt: `<?xml version="1.0"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>
  <xsl:template match="/volume/target/permissions/mode"><mode>0600</mode></xsl:template>
</xsl:stylesheet>`,
};

/**
 * The same for a volume with data, as qcow2 version 3: libvirt asks qemu-img for version 2, which cannot grow while snapshots are in it.
 */
export const DATA_VOLUME = {
  xslt: PRIVATE_VOLUME.xslt.replace(
    "</xsl:stylesheet>",
    `  <xsl:template match="/volume/target">
    <target><xsl:apply-templates select="@*|node()"/><compat>1.1</compat></target>
  </xsl:template>
</xsl:stylesheet>`,
  ),
};
