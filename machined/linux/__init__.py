# SPDX-License-Identifier: LGPL-2.1-or-later
"""Linux plumbing: descriptors, processes, cgroups, mounts, namespaces. Knows nothing of the layers above."""
