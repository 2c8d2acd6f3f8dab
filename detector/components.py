"""Everything that the detector registers with MMDetection. In a configuration file of one's own:

    custom_imports = dict(imports=["detector.components"])
"""
