"""Several devices and several processes: meshes, shardings, and how processes run as one."""
